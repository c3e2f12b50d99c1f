// node tests/api/run.mjs: the server API of a node that has keys, as clients see it that nobody here wrote: schemathesis reads
// the OpenAPI document and tries everything that it allows and forbids; Python's gRPC asks reflection and health.
import { join } from "node:path";
import { freePorts, kill, root, run, skywave, start, tail, untilAnswers } from "../cluster/processes.mjs";

const bin = (name) => join(root, "target/venv/api/bin", name);
const key = "0123456789abcdef-test";
const [publicPort, internalPort] = await freePorts(2);
const internal = `127.0.0.1:${internalPort}`;
const node = start(
    "node",
    join(root, "tests/artefacts/api"),
    skywave,
    ["--name", "api-test", "--listen", `127.0.0.1:${publicPort}`, "--internal-listen", internal],
    {
        SKYWAVE__API__KEYS: `[{ name = "test", key = "${key}", scopes = ["publish", "read", "control"] }]`,
        SKYWAVE__NAMESPACES__DEFAULT: '{ history = { size = 100, ttl = "10m" }, presence = true }',
        SKYWAVE__NAMESPACES__LIVE: '{ subscribe = "anyone" }',
    },
);
await untilAnswers(node, `http://${internal}/readyz`);

const document = `http://${internal}/api/v1/openapi.json`;
const schemathesis = (...args) =>
    run(bin("schemathesis"), [
        ...["--config-file", join(root, "tests/api/schemathesis.toml"), "run", document, "--header", `Authorization: Bearer ${key}`, "--max-examples", "100", "--seed", "7"],
        ...["--generation-deterministic", "--phases", "examples,coverage,fuzzing"],
        // Bounds are in bytes, and OpenAPI knows only characters: what it allows may still be refused.
        ...["--exclude-checks", ["positive_data_acceptance", ...args.splice(0, 1)[0]].join(","), "--no-color", ...args],
    ]);

const outcomes = [
    // A tail does not end, so it is not for a tool that waits for the end of an answer.
    await schemathesis([], "--exclude-path", "/api/v1/tail", "--exclude-path", "/api/v1/batch"),
    // A batch answers 200 with what became of each call, good or bad.
    await schemathesis(["negative_data_rejection"], "--include-path", "/api/v1/batch"),
    await run(bin("python"), [join(root, "tests/api/grpc_clients.py"), internal, key]),
];
if (node.hasEnded) {
    console.error(`the node ended with ${await node.ended} meanwhile:\n${tail(node)}`);
    outcomes.push(1);
}
await kill(node);
process.exitCode = outcomes.find((code) => code !== 0) ?? 0;
