// node scripts/autobahn.mjs [quick] [CASE…]: Autobahn's cases against /echo, by the runner kosoku; the report comes into
// target/autobahn/. `quick` leaves out what takes minutes: of the compression of large messages a few of each kind. Cases may be
// named instead, as 6.4.1 or 9.*. Fails unless every case is OK: none FAILED, none UNIMPLEMENTED, and none of invalid UTF-8 noticed
// late (NON-STRICT).
import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { freePorts, kill, root, run, skywave, start, tail, untilAnswers } from "../tests/cluster/processes.mjs";

const report = join(root, "target/autobahn");
const range = (first, last) => Array.from({ length: last - first + 1 }, (_, index) => first + index);
const fewOfCompression = [
    ...range(1, 5).flatMap((kind) => range(1, 4).map((size) => `12.${kind}.${size}`)),
    ...range(1, 7).flatMap((kind) => [1, 4].map((size) => `13.${kind}.${size}`)),
];
const [mode, ...rest] = process.argv.slice(2);
const runs =
    mode === "quick" ? [["-x", "12.*", "-x", "13.*"], fewOfCompression.flatMap((id) => ["-i", id])]
    : mode === undefined ? [[]]
    : [[mode, ...rest].flatMap((id) => ["-i", id])];
const expected = mode === undefined ? 517 : mode === "quick" ? 301 + fewOfCompression.length : 1;

const [publicPort, internalPort] = await freePorts(2);
const listen = ["--listen", `127.0.0.1:${publicPort}`, "--internal-listen", `127.0.0.1:${internalPort}`];
// The cases send 16 MiB at once, and 4 MiB in 65,536 fragments.
const settings = {
    SKYWAVE__DEBUG__ECHO: "true",
    SKYWAVE__LIMITS__MESSAGE_BYTES: "16MiB",
    SKYWAVE__LIMITS__FRAME_BYTES: "16MiB",
    SKYWAVE__LIMITS__FRAGMENTS: "65536",
    SKYWAVE__TIMEOUTS__MESSAGE: "100s",
};
const node = start("autobahn", join(root, "tests/artefacts"), skywave, [...listen, "--dev"], settings);
await untilAnswers(node, `http://127.0.0.1:${internalPort}/readyz`);

const verdicts = new Map();
for (const [index, cases] of runs.entries()) {
    const folder = join(report, String(index));
    rmSync(folder, { recursive: true, force: true });
    const url = `ws://127.0.0.1:${publicPort}/echo`;
    await run(join(root, "target/venv/clients/bin/kosoku"), ["-p", "4", "-o", folder, ...cases, url], {});
    const agents = Object.values(JSON.parse(readFileSync(join(folder, "index.json"), "utf8")));
    for (const [id, verdict] of agents.flatMap((agent) => Object.entries(agent))) verdicts.set(id, verdict);
}
await kill(node);

const counts = {};
const bad = [];
for (const [id, { behavior, behaviorClose }] of verdicts) {
    counts[behavior] = (counts[behavior] ?? 0) + 1;
    const isGood = ["OK", "INFORMATIONAL"].includes(behavior) && ["OK", "INFORMATIONAL"].includes(behaviorClose);
    if (!isGood) bad.push(`${id}: ${behavior}, close ${behaviorClose}`);
}
console.log(`${verdicts.size} cases:`, counts);
if (bad.length > 0 || verdicts.size < expected) {
    console.error(`${bad.join("\n")}\n${verdicts.size} of at least ${expected} cases ran; see ${report} and the node's log:\n${tail(node)}`);
    process.exitCode = 1;
}
