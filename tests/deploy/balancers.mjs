// The balancers that deploy/ has settings for, as processes before a cluster of processes. Each has the settings of its file,
// with free ports in them and the nodes by their addresses.
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { derived } from "../cluster/cluster.mjs";
import { freePorts, kill, root, start, untilAnswers } from "../cluster/processes.mjs";

// Name to a function that starts it and resolves with its public URL, and with whether it has found a node not ready, if it looks.
export const balancers = {
    // The cluster has it anyway.
    haproxy: async (cluster) => {
        const metrics = async () => (await fetch(`${cluster.balancer.metrics}/metrics`)).text();
        const down = ({ name }) => `haproxy_server_status{proxy="gateways",server="${name}",state="DOWN"} 1\n`;
        return { url: cluster.balancer.public, hasDown: async (node) => (await metrics()).includes(down(node)) };
    },

    nginx: (cluster, t) => run(cluster, t, async (port) => {
        const servers = cluster.nodes.map((node) => `    server 127.0.0.1:${node.publicPort} max_fails=3 fail_timeout=5s;`);
        const ours = write(cluster, "skywave.conf", derived("deploy/nginx/skywave.conf", [
            [/^ +server gateway:8000 max_fails=3 fail_timeout=5s;$/m, servers.join("\n")],
            [/listen 8000;/, `listen 127.0.0.1:${port};`],
            [/access_log \S+ skywave;/, `access_log ${join(cluster.directory, "nginx.access.log")} skywave;`],
        ]));
        const temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map((what) => `${what}_temp_path ${temporaryOf(cluster)}/${what};`);
        // One process, which dies with us.
        const file = write(cluster, "nginx.conf", `daemon off; master_process off; pid ${join(cluster.directory, "nginx.pid")};
            events { worker_connections 1024; }
            http { ${temporary.join(" ")} include ${ours}; }`);
        return { program: "nginx", args: ["-e", "stderr", "-c", file], ready: `http://127.0.0.1:${port}/` };
    }),

    envoy: (cluster, t) => run(cluster, t, async (port) => {
        const [admin] = await freePorts(1);
        const endpoints = cluster.nodes.map(({ publicPort, internalPort }) =>
            `              - endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: ${publicPort} } }, health_check_config: { port_value: ${internalPort} } }`);
        const file = write(cluster, "envoy.yaml", derived("deploy/envoy/skywave.yaml", [
            [/^ +- endpoint: .*address: gateway.*$/m, endpoints.join("\n")],
            [/address: 0\.0\.0\.0, port_value: 8000/, `address: 127.0.0.1, port_value: ${port}`],
            [/port_value: 9901/, `port_value: ${admin}`],
        ]));
        const args = ["--config-path", file, "--disable-hot-restart", "--concurrency", "2", "--log-level", "warn", "--file-flush-interval-msec", "100"];
        const clusters = async () => (await fetch(`http://127.0.0.1:${admin}/clusters`)).text();
        const down = ({ publicPort }) => `skywave::127.0.0.1:${publicPort}::health_flags::/failed_active_hc\n`;
        const hasDown = async (node) => (await clusters()).includes(down(node));
        return { program: join(root, "target/venv/deploy/bin/envoy"), args, ready: `http://127.0.0.1:${admin}/ready`, hasDown };
    }),
};

async function run(cluster, t, settings) {
    const [port] = await freePorts(1);
    const { program, args, ready, hasDown } = await settings(port);
    const child = start(program.split("/").pop(), cluster.directory, program, args);
    t.after(() => kill(child));
    await untilAnswers(child, ready);
    return { url: `http://127.0.0.1:${port}`, hasDown };
}

function write(cluster, name, text) {
    const file = join(cluster.directory, name);
    writeFileSync(file, text);
    return file;
}

function temporaryOf(cluster) {
    const directory = join(cluster.directory, "temporary");
    mkdirSync(directory, { recursive: true });
    return directory;
}
