// What can be said of rules, runbooks and dashboards without a node: takes a second.
import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { test } from "node:test";
import { root } from "../cluster/processes.mjs";
import { dashboards } from "./dashboards.mjs";

// The packages of tests/deploy.
const require = createRequire(join(root, "tests/deploy/package.json"));

const read = (...path) => readFileSync(join(root, ...path), "utf8");
const all = (folder) => readdirSync(join(root, folder)).map((name) => read(folder, name)).join("\n");
// Each alert's own lines, by its name. The files are ours: two spaces more for each level.
const alerts = new Map(
    read("deploy/prometheus/rules/alerts.yml").split(/^ +- alert: /m).slice(1).map((text) => [/^\w+/.exec(text)[0], text.split(/^ {2}- /m)[0]]),
);
const cases = all("deploy/prometheus/tests").split(/^ +- name: /m).slice(1);

test("each alert says who is woken, what is wrong, and where to read on", () => {
    for (const [name, text] of alerts) {
        assert.match(name, /^Skywave[A-Z]/);
        assert.match(text, /severity: (page|ticket|none)\b/, name);
        for (const annotation of ["summary", "description", "runbook"]) assert.match(text, new RegExp(`^ +${annotation}: .+`, "m"), `${name}: ${annotation}`);
        assert.match(/description: "(.+)"/.exec(text)[1], /^[A-Z].+\.$/, `${name}: a sentence`);
    }
});

test("each alert has its runbook, and each runbook its alerts", () => {
    const named = new Map();
    for (const file of readdirSync(join(root, "docs/runbooks"))) {
        const page = read("docs/runbooks", file);
        for (const heading of ["## First", "## Find the cause", "## It is over"]) assert.ok(page.includes(heading), `${file}: ${heading}`);
        assert.match(page, /^\*\*Users:\*\* /m, `${file}: what users feel`);
        for (const name of /^# (.+)/.exec(page)[1].split(", ")) named.set(name, `docs/runbooks/${file}`);
        for (const [, other] of page.matchAll(/\]\(([^)#:]+)\)/g)) read("docs/runbooks", other); // links lead somewhere
    }
    assert.deepEqual(named, new Map([...alerts].map(([name, text]) => [name, /runbook: (\S+)/.exec(text)[1]]).sort()), "headings of the runbooks");
});

test("each alert has a unit test in which it fires, and one in which it does not", () => {
    for (const [name, text] of alerts) {
        const own = cases.filter((one) => one.includes(`alertname: ${name}\n`));
        const fires = own.find((one) => one.includes("exp_labels"));
        assert.ok(fires, `${name} fires nowhere`);
        if (name === "SkywaveWatchdog") continue; // always
        assert.ok(own.some((one) => !one.includes("exp_labels")), `${name} fires without its fault`);
        if (/^ +for: /m.test(text)) assert.match(fires, /exp_alerts: \[\]\n[^]*exp_labels/, `${name} fires before its time`);
    }
});

test("every panel has a unit, a description, and a place of its own", () => {
    for (const { name, panels, uid, templating } of dashboards) {
        assert.match(uid, /^skywave-/);
        assert.equal(new Set(panels.map(({ id }) => id)).size, panels.length, `${name}: each panel has an id`);
        assert.equal(new Set(panels.map(({ title }) => title)).size, panels.length, `${name}: each panel has a title of its own`);
        for (const { current } of templating.list) assert.ok(current.text && current.value, `${name}: variables have a value before they are asked for`);
        const taken = new Set();
        for (const { type, title, description, fieldConfig, targets, gridPos } of panels) {
            for (let x = gridPos.x; x < gridPos.x + gridPos.w; x++) {
                for (let y = gridPos.y; y < gridPos.y + gridPos.h; y++) {
                    assert.ok(x < 24 && !taken.has(`${x} ${y}`), `${name}: "${title}" lies on another one`);
                    taken.add(`${x} ${y}`);
                }
            }
            if (type === "row") continue;
            assert.ok(description?.endsWith("."), `${name}: "${title}" says what one reads from it`);
            assert.ok(fieldConfig.defaults.unit, `${name}: "${title}" has a unit`);
            assert.ok(targets.length > 0 && targets.every(({ datasource }) => datasource.uid === "prometheus"), title);
        }
    }
});

test("dashboards are what Grafana's own types say, and have no field that they do not know", () => {
    const { createGenerator } = require("ts-json-schema-generator");
    const { Ajv } = require("ajv");
    const path = join(root, "tests/deploy/node_modules/@grafana/schema/dist/esm/raw/dashboard/x/dashboard_types.gen.d.ts");
    const schema = createGenerator({ path, type: "Dashboard", skipTypeCheck: true, additionalProperties: false }).createSchema("Dashboard");
    const validate = new Ajv({ strict: false, allErrors: true }).compile(schema);
    const complaints = (dashboard) => (validate(dashboard) ? [] : validate.errors.map(({ instancePath, message, params }) => `${instancePath} ${message} ${JSON.stringify(params)}`));
    for (const { name, ...dashboard } of dashboards) assert.deepEqual(complaints(dashboard), [], name);

    // It would say so.
    const [{ name, ...good }] = dashboards;
    const broken = (change) => {
        const copy = structuredClone(good);
        change(copy);
        return complaints(copy);
    };
    assert.notDeepEqual(broken((one) => (one.schemaVersion = "39")), [], "a string for a number");
    assert.notDeepEqual(broken((one) => (one.refrsh = "5s")), [], "a field that there is not");
    assert.notDeepEqual(broken((one) => (one.templating.list[0].includeAll = "yes")), [], "a word for a truth");
    assert.notDeepEqual(broken((one) => (one.panels[1].gridpos = one.panels[1].gridPos)), [], "a field that there is not, in a panel");
    assert.notDeepEqual(broken((one) => (one.panels[1].fieldConfig.defaults.units = "s")), [], "and in its field");
});
