// A Prometheus that scrapes a cluster of the tests, with the rules of deploy/prometheus.
import { mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { freePorts, root, start, untilAnswers } from "../cluster/processes.mjs";

const rulesDirectory = join(root, "deploy/prometheus/rules");

export class Prometheus {
    // `patience` replaces the `for` of every alert, so that a test need not wait as long as somebody who is paged.
    static async start(cluster, { patience } = {}) {
        const prometheus = new Prometheus();
        const directory = join(cluster.directory, "prometheus");
        mkdirSync(directory, { recursive: true });
        const [port, exporter] = await freePorts(2);
        prometheus.url = `http://127.0.0.1:${port}`;
        const rules = readdirSync(rulesDirectory).map((name) => {
            const text = readFileSync(join(rulesDirectory, name), "utf8");
            writeFileSync(join(directory, name), patience ? text.replaceAll(/^( +for:) .*$/gm, `$1 ${patience}`) : text);
            return join(directory, name);
        });
        const targets = (urls) => JSON.stringify(urls.map((url) => new URL(url).host));
        const nodes = join(directory, "nodes.json");
        // From now on these nodes are scraped, by the URLs of their internal listeners.
        prometheus.scrape = (urls) => writeFileSync(nodes, `[{ "targets": ${targets(urls)} }]`);
        prometheus.scrape(cluster.nodes.map((node) => node.internal));
        const config = join(directory, "prometheus.yml");
        writeFileSync(
            config,
            `global: { scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s }
rule_files: ${JSON.stringify(rules)}
scrape_configs:
  - { job_name: skywave, file_sd_configs: [{ files: [${JSON.stringify(nodes)}], refresh_interval: 1s }] }
  - { job_name: haproxy, static_configs: [{ targets: ${targets([cluster.balancer.metrics])} }] }
  - { job_name: redis, static_configs: [{ targets: ["127.0.0.1:${exporter}"] }] }
`,
        );
        const redis = start("redis-exporter", directory, "prometheus-redis-exporter", [
            `-web.listen-address=127.0.0.1:${exporter}`,
            `-redis.addr=redis://127.0.0.1:${cluster.redisPort}`,
        ]);
        const server = start("prometheus", directory, "prometheus", [
            `--config.file=${config}`,
            `--storage.tsdb.path=${join(directory, "data")}`,
            `--web.listen-address=127.0.0.1:${port}`,
        ]);
        cluster.children.push(redis, server);
        await untilAnswers(redis, `http://127.0.0.1:${exporter}/metrics`);
        await untilAnswers(server, `${prometheus.url}/-/ready`);
        return prometheus;
    }

    async #ask(path, parameters) {
        const answer = await (await fetch(`${this.url}/api/v1/${path}?${new URLSearchParams(parameters)}`)).json();
        if (answer.status !== "success") throw new Error(`${JSON.stringify(parameters)}: ${answer.error}`);
        return answer.data;
    }

    // The series of an instant query: [{ metric, value: [time, text] }].
    async query(query) {
        return (await this.#ask("query", { query })).result;
    }

    async range(query, seconds, step = 1) {
        const end = Date.now() / 1000;
        return (await this.#ask("query_range", { query, start: end - seconds, end, step })).result;
    }

    async labelValues(label, match) {
        const response = await fetch(`${this.url}/api/v1/label/${label}/values?${new URLSearchParams({ "match[]": match })}`);
        return (await response.json()).data;
    }

    // The names of the alerts that fire.
    async firing() {
        const alerts = await this.query('ALERTS{alertstate="firing"}');
        return new Set(alerts.map(({ metric }) => metric.alertname));
    }

    // Every rule: { name, query, type: "alerting" | "recording", health, lastError }.
    async rules() {
        return (await this.#ask("rules", {})).groups.flatMap((group) => group.rules);
    }
}
