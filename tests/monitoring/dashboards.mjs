// The dashboards of deploy/grafana, and their panels without the rows.
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { root } from "../cluster/processes.mjs";

const folder = join(root, "deploy/grafana/dashboards");

export const dashboards = readdirSync(folder).map((name) => ({ name, ...JSON.parse(readFileSync(join(folder, name), "utf8")) }));
export const panels = dashboards.flatMap(({ name, panels }) => panels.filter(({ type }) => type !== "row").map((panel) => ({ name, ...panel })));
