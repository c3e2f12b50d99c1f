// node scripts/with-node.mjs COMMAND [ARGUMENT…]: runs the command while one node in development mode stands, on free ports;
// the command finds it in SKYWAVE_PUBLIC and SKYWAVE_INTERNAL, and its exit code is ours.
import { join } from "node:path";
import { freePorts, kill, root, run, skywave, start, tail, untilAnswers } from "../tests/cluster/processes.mjs";

const [publicPort, internalPort] = await freePorts(2);
const internal = `http://127.0.0.1:${internalPort}`;
const listen = ["--listen", `127.0.0.1:${publicPort}`, "--internal-listen", `127.0.0.1:${internalPort}`];
// `/echo` is for those who test the WebSocket itself. A setting alone would end development mode.
const settings = { SKYWAVE__DEBUG__ECHO: "true" };
const node = start("node", join(root, "tests/artefacts"), skywave, [...listen, "--dev"], settings);
await untilAnswers(node, `${internal}/readyz`);

const [program, ...args] = process.argv.slice(2);
process.exitCode = await run(program, args, { SKYWAVE_PUBLIC: `http://127.0.0.1:${publicPort}`, SKYWAVE_INTERNAL: internal });
if (node.hasEnded) {
    console.error(`the node ended with ${await node.ended} meanwhile:\n${tail(node)}`);
    process.exitCode = 1;
}
await kill(node);
