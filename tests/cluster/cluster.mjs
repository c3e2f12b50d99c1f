// A cluster of plain processes on free ports: redis-server, nodes, and HAProxy with the settings of deploy/haproxy.
import { execFile } from "node:child_process";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { Agent, request } from "node:http";
import { join } from "node:path";
import { promisify } from "node:util";
import { freePorts, kill, root, skywave, start, until, untilAnswers } from "./processes.mjs";

export const apiKey = "the-key-of-the-cluster-tests";

export class Cluster {
    // `name` is that of the folder with the settings and logs of this cluster: tests/artefacts/cluster/NAME. `more` are settings
    // that other tests do not have, `environment` those that change what all have, and `program` is what the nodes are.
    static async start(name, { nodes = 2, more = "", environment = {}, program = skywave } = {}) {
        const cluster = new Cluster();
        Object.assign(cluster, { more, environment, program });
        cluster.directory = join(root, "tests/artefacts/cluster", name);
        rmSync(cluster.directory, { recursive: true, force: true });
        mkdirSync(cluster.directory, { recursive: true });
        try {
            await cluster.#start(nodes);
        } catch (error) {
            await cluster.stop();
            throw error;
        }
        return cluster;
    }

    async #start(nodes) {
        const [redis, balancer, metrics, ...rest] = await freePorts(3 + 2 * nodes);
        this.redisPort = redis;
        this.balancer = { public: `http://127.0.0.1:${balancer}` };
        this.nodes = Array.from({ length: nodes }, (_, i) => new Node(`gw-${i + 1}`, rest[2 * i], rest[2 * i + 1]));
        this.children = [];

        const args = ["--port", redis, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", this.directory];
        this.#run("redis", "redis-server", args.map(String));
        await until(() => "PONG from Redis", () => this.redis("PING").then((answer) => answer === "PONG", () => false));

        await Promise.all(this.nodes.map((node) => this.launch(node)));

        const file = this.#write("haproxy.cfg", balancerSettings(this.nodes, balancer, metrics));
        const haproxy = this.#run("haproxy", "haproxy", ["-db", "-f", file]);
        this.balancer.metrics = `http://127.0.0.1:${metrics}`;
        await untilAnswers(haproxy, `${this.balancer.metrics}/livez`);
    }

    // Starts a node, again or for the first time; resolves when it is ready.
    async launch(node, { program = this.program, more = this.more } = {}) {
        const file = this.#write(`${node.name}.toml`, settings(node, this) + more);
        node.runs = (node.runs ?? 0) + 1;
        node.child = this.#run(`${node.name}.${node.runs}`, program, ["serve", "--config", file], this.environment);
        await untilAnswers(node.child, `${node.internal}/readyz`);
    }

    // Asks a node to leave, as an orchestrator does; resolves with its exit code.
    async terminate(node) {
        node.child.process.kill("SIGTERM");
        return node.child.ended;
    }

    // Resolves once the balancer sends clients to the node.
    async untilBalanced(node) {
        const line = new RegExp(`^haproxy_server_status\\{proxy="gateways",server="${node.name}",state="UP"\\} 1$`, "m");
        await until(
            () => `${node.name} is up for the balancer`,
            async () => line.test(await (await fetch(`${this.balancer.metrics}/metrics`)).text()),
        );
    }

    async stop() {
        this.nodes?.forEach((node) => node.agent.destroy());
        await Promise.all((this.children ?? []).map(kill));
    }

    // One command, as redis-cli prints its answer.
    async redis(...command) {
        const { stdout } = await promisify(execFile)("redis-cli", ["-p", String(this.redisPort), ...command]);
        return stdout.trim();
    }

    #run(name, program, args, environment) {
        const child = start(name, this.directory, program, args, environment);
        this.children.push(child);
        return child;
    }

    #write(name, text) {
        const file = join(this.directory, name);
        writeFileSync(file, text);
        return file;
    }
}

class Node {
    constructor(name, publicPort, internalPort) {
        Object.assign(this, { name, publicPort, internalPort });
        this.public = `http://127.0.0.1:${publicPort}`;
        this.internal = `http://127.0.0.1:${internalPort}`;
        this.agent = new Agent({ keepAlive: true });
    }

    // The server API; rejects unless the answer is 200.
    call(method, body) {
        const headers = { authorization: `Bearer ${apiKey}`, "content-type": "application/json" };
        return new Promise((resolve, reject) => {
            const call = request(`${this.internal}/api/v1/${method}`, { method: "POST", agent: this.agent, headers }, (response) => {
                const parts = [];
                response.on("data", (part) => parts.push(part));
                response.on("error", reject);
                response.on("end", () => {
                    const text = Buffer.concat(parts).toString();
                    if (response.statusCode === 200) resolve(JSON.parse(text));
                    else reject(new Error(`${this.name}: ${method}: ${response.statusCode} ${text}`));
                });
            });
            call.on("error", reject);
            call.end(JSON.stringify(body));
        });
    }
}

function settings(node, cluster) {
    const origins = [cluster.balancer, ...cluster.nodes].map((one) => one.public);
    return `
[node]
name = "${node.name}"
secret = "thirty-two bytes, the same on each node of a test cluster"
[public]
listen = ["127.0.0.1:${node.publicPort}"]
origins = ${JSON.stringify(origins)}
[internal]
listen = ["127.0.0.1:${node.internalPort}"]
[backplane]
url = "redis://127.0.0.1:${cluster.redisPort}"
[auth]
anonymous = true
[api]
keys = [{ name = "tests", key = "${apiKey}", scopes = ["publish", "read", "control"] }]
# How fast a test asks, and what else the machine does, is no concern of the node.
[limits]
handshakes_per_second = 0
new_channels_per_minute = 0
commands_per_second = 0
publications_per_second = 0
bytes_per_second = 0
overload_memory = 0
overload_lag = "0s"
[demo]
enabled = true
[namespaces.default]
history = { size = 100, ttl = "10m" }
presence = true
subscribe = "anyone"
publish = "subscribers"
[namespaces.chat]
history = { size = 100, ttl = "10m" }
presence = true
subscribe = "anyone"
publish = "subscribers"
# Everything that a test publishes fits: whatever a client misses can be recovered.
[namespaces.deep]
history = { size = 20000, ttl = "10m" }
subscribe = "anyone"
publish = "subscribers"
`;
}

// deploy/haproxy/haproxy.cfg with our ports, and servers that stand there instead of coming from Docker's DNS.
function balancerSettings(nodes, port, metricsPort) {
    const servers = nodes.map((node) => `    server ${node.name} 127.0.0.1:${node.publicPort} port ${node.internalPort}`);
    return derived("deploy/haproxy/haproxy.cfg", [
        [/bind :8000$/m, `bind 127.0.0.1:${port}`],
        [/bind :8404$/m, `bind 127.0.0.1:${metricsPort}`],
        [/^resolvers docker\n( .*\n)+/m, ""],
        [/^ +server-template .*$/m, servers.join("\n")],
    ]);
}

// The text of a file of ours with these changes, each a pattern and what stands there instead.
export function derived(file, changes) {
    return changes.reduce((text, [from, to]) => {
        if (!from.test(text)) throw new Error(`${file} has no ${from} any more`);
        return text.replace(from, () => to);
    }, readFileSync(join(root, file), "utf8"));
}
