// Writes dashboards/*.json: `node deploy/grafana/build.mjs`, or with --check says whether they are what this file makes of them.
//
// Every panel is a line here: what it is called, what one reads from it, its unit, and its expressions.
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const datasource = { type: "prometheus", uid: "prometheus" };

// A panel: a title, a sentence for its (i), a unit of Grafana's, and [legend, expression] pairs.
const graph = (title, description, unit, ...targets) => ({ type: "timeseries", title, description, unit, targets });
// The same with many kinds, of which most are nothing most of the time: those stay out of the legend.
const kinds = (...of) => ({ ...graph(...of), overrides: [nothingButZeros] });
// A number: green below `bad`, red from there on (or the other way round, `isLow`).
const number = (title, description, unit, target, { bad, isLow, mappings = [] } = {}) => ({ type: "stat", title, description, unit, targets: [target], bad, isLow, mappings });

const nothingButZeros = {
    matcher: { id: "byValue", options: { reducer: "allIsZero", op: "gte", value: 0 } },
    properties: [{ id: "custom.hideFrom", value: { legend: true, tooltip: true, viz: false } }],
};
// Without it the axis of a line that stays at 0 reaches to 100.
const LEAST_TOP = { short: 1, cps: 1, Bps: 1000, bytes: 1024, s: 0.001, percentunit: 0.01 };

const STATES = [{ type: "value", options: { 0: { index: 0, text: "never reached" }, 1: { index: 1, text: "degraded" }, 2: { index: 2, text: "live" } } }];

const quantiles = (metric, by = "") =>
    [0.5, 0.99].map((q) => [`p${q * 100}${by && ` {{${by}}}`}`, `histogram_quantile(${q}, sum by (le${by && `, ${by}`}) (rate(${metric}_bucket{node=~"$node"}[$__rate_interval])))`]);
const rate = (metric, by, labels = "") => [
    `{{${by}}}`,
    `sum by (${by}) (rate(${metric}{node=~"$node"${labels && `,${labels}`}}[$__rate_interval]))`,
];
const gauge = (metric, by = "node") => [`{{${by}}}`, `sum by (${by}) (${metric}{node=~"$node"})`];

const dashboards = {
    overview: {
        uid: "skywave-overview",
        title: "Skywave: overview",
        rows: {
            "Is it working": [
                number("Nodes", "Nodes that answer Prometheus.", "short", ["nodes", 'sum(up{job="skywave"})'], { bad: 1, isLow: true }),
                number("Connections", "Open now, on all nodes.", "short", ["connections", "sum(skywave_connections)"]),
                number("Deliveries", "Publications handed to connections.", "cps", ["deliveries", "sum(rate(skywave_deliveries_total[$__rate_interval]))"]),
                number("Late deliveries", "Of all deliveries, those later than half a second. The service level is 0.1 %.", "percentunit", ["late", "sum(job:skywave_deliveries_late:ratio_rate5m) or vector(0)"], { bad: 0.001 }),
                number("Failed handshakes", "Of all who connect, those refused for want of room. The service level is 0.1 %.", "percentunit", ["failed", "sum(job:skywave_handshakes_failed:ratio_rate5m) or vector(0)"], { bad: 0.001 }),
                number("Redis", "The worst node's way to its masters: live, degraded, or never reached.", "short", ["state", "min(skywave_backplane_state)"], { bad: 2, isLow: true, mappings: STATES }),
            ],
            Traffic: [
                graph("Connections of each node", "Open now. Apart: nodes were added, see runbook imbalance.", "short", gauge("skywave_connections")),
                kinds("Publications in", "Accepted by the backplane, by namespace and where they came from.", "cps", ["{{namespace}} {{source}}", 'sum by (namespace, source) (rate(skywave_publications_total{node=~"$node"}[$__rate_interval]))']),
                kinds("Deliveries out", "Handed to connections, by namespace. Over publications: the fan-out.", "cps", rate("skywave_deliveries_total", "namespace")),
                graph("Delivery lag", "From taking a publication in, on whatever node, to handing it to connections.", "s", ...quantiles("skywave_delivery_lag_seconds")),
                graph("Opened and closed", "Connections that come and go.", "cps", ["opened", 'sum(rate(skywave_connections_opened_total{node=~"$node"}[$__rate_interval]))'], ["closed", 'sum(rate(skywave_connections_closed_total{node=~"$node"}[$__rate_interval]))']),
                kinds("Closed, by reason", "Only those that should not be: neither the client's wish nor the node's plan.", "cps", rate("skywave_connections_closed_total", "reason", 'reason!~"normal|going_away|draining|service_restart|rebalanced|connection_too_old|token_expired|replaced|disconnected_by_api"')),
            ],
            "Who leaves": [
                graph("Connections that still have to go", "In a drain all of the node's, in a shedding the chosen ones.", "short", gauge("skywave_drain_remaining")),
                graph("Nodes that leave", "1 while a node drains.", "short", gauge("skywave_draining")),
                graph("Connections cut", "Still there at drain.deadline.", "short", ["{{node}}", 'sum by (node) (increase(skywave_drain_cut_total{node=~"$node"}[$__rate_interval]))']),
            ],
            Versions: [
                graph("Nodes by version", "Two versions: a rollout is under way, or stuck.", "short", ["{{version}}", 'count by (version) (skywave_build_info{node=~"$node"})']),
                graph("Nodes by settings", "Two versions of settings for long: see runbook settings.", "short", ["{{version}}", 'count by (version) (skywave_config_info{node=~"$node"} == 1)']),
                graph("Nodes that nodes see", "Each node's own count of nodes that are alive: all the same.", "short", gauge("skywave_nodes")),
            ],
            "Balancer (HAProxy)": [
                graph("Sessions of each server", "What the balancer has open to each node. Without HAProxy this row is empty.", "short", ["{{server}}", 'sum by (server) (haproxy_server_current_sessions{proxy="gateways"}) > 0']),
                graph("Servers that it uses", "As many as there are nodes; fewer: see runbook balancer.", "short", ["up", 'sum(haproxy_server_status{proxy="gateways",state="UP"})']),
                graph("Bytes", "To and from clients, with all that TLS and HTTP add.", "Bps", ["to clients", 'sum(rate(haproxy_backend_bytes_out_total{proxy="gateways"}[$__rate_interval]))'], ["from clients", 'sum(rate(haproxy_backend_bytes_in_total{proxy="gateways"}[$__rate_interval]))']),
                graph("Part of its connections in use", "Each client is one to HAProxy; when it is full they wait without an answer.", "percentunit", ["{{instance}}", "haproxy_process_current_connections / haproxy_process_max_connections"]),
                graph("Tried again", "Handshakes that went to a second node because the first refused or was gone.", "cps", ["retries", 'sum(rate(haproxy_backend_retry_warnings_total{proxy="gateways"}[$__rate_interval]))']),
                graph("Checks that failed", "Of /readyz, by server: a node that drains fails them too.", "cps", ["{{server}}", 'sum by (server) (rate(haproxy_server_check_failures_total{proxy="gateways"}[$__rate_interval]))']),
            ],
        },
    },
    node: {
        uid: "skywave-node",
        title: "Skywave: one node",
        rows: {
            "Room left": [
                graph("CPU", "Cores in use, of as many as the node has shards and two threads more.", "short", ["{{node}}", 'rate(process_cpu_seconds_total{job="skywave",node=~"$node"}[1m])']),
                graph("Memory", "Resident, and as a part of what it may use (right: 0.9 closes the door).", "bytes", ["{{node}}", 'process_resident_memory_bytes{job="skywave",node=~"$node"}']),
                graph("Part of the memory that it may use", "At limits.overload_memory it lets nobody in.", "percentunit", gauge("skywave_memory_used_ratio")),
                graph("Open files", "Each connection is one; without any left it lets nobody in.", "short", ["{{node}}", 'process_open_fds{job="skywave",node=~"$node"}'], ["{{node}} may", 'process_max_fds{job="skywave",node=~"$node"}']),
                graph("Connections, and limits.connections", "0: there is no limit, and memory and open files decide.", "short", gauge("skywave_connections"), ["{{node}} may", 'skywave_connections_limit{node=~"$node"}']),
                graph("How late the latest shard is", "All clients of that shard wait so long.", "s", gauge("skywave_shard_lag_seconds")),
            ],
            "What it holds": [
                graph("Connections by transport and protocol", "What carries them, and what they speak. A poll is one while it waits.", "short", ["{{transport}} {{protocol}}", 'sum by (transport, protocol) (skywave_connections{node=~"$node"})']),
                graph("Subscriptions and channels", "Channels are counted once on each shard that has members.", "short", ["subscriptions", 'sum(skywave_subscriptions{node=~"$node"})'], ["channels", 'sum(skywave_channels{node=~"$node"})']),
                graph("Waiting for slow clients", "Bytes in outboxes; bounded by limits.node_outbox_bytes.", "bytes", gauge("skywave_outbox_bytes")),
            ],
            Process: [
                graph("Threads", "Shards, the small runtime, and what blocks for a moment.", "short", ["{{node}}", 'process_threads{job="skywave",node=~"$node"}']),
                graph("Age", "Since the process was started.", "s", ["{{node}}", 'time() - process_start_time_seconds{job="skywave",node=~"$node"}']),
                graph("Memory of a connection", "Resident memory over connections: with few, it is mostly the program itself.", "bytes", ["{{node}}", 'process_resident_memory_bytes{job="skywave",node=~"$node"} / on (node) (sum by (node) (skywave_connections) > 0)']),
                graph("Certificate ends in", "The first to end in the file that a listener uses. Empty without TLS on the nodes.", "s", ["{{node}} {{listener}}", 'skywave_certificate_expiry_timestamp_seconds{node=~"$node"} - time()']),
                graph("Signals dropped", "What nodes said to each other and found no room.", "cps", rate("skywave_signals_dropped_total", "direction")),
                kinds("Requests between nodes", "Of SockJS sessions that another node has, by outcome; refused: somebody asked who is no node.", "cps", rate("skywave_peer_requests_total", "outcome")),
                graph("Receivers on other nodes", "Attached to the sessions of each node.", "short", ["{{node}}", 'skywave_peer_receivers{node=~"$node"}']),
            ],
        },
    },
    backplane: {
        uid: "skywave-backplane",
        title: "Skywave: backplane",
        rows: {
            "The way to Redis": [
                graph("State", "Of the way to Redis, for each node and master.", "short", ["{{node}} master {{shard}}", 'skywave_backplane_state{node=~"$node"}']),
                graph("Probe", "From publishing a probe to hearing it, while nothing else is heard. Empty on a busy cluster.", "s", ...quantiles("skywave_backplane_probe_seconds")),
                graph("Publish", "From taking a publication in to Redis' answer.", "s", ...quantiles("skywave_publish_duration_seconds")),
                graph("Reached again", "Times that a master was reached, subscribed and caught up with.", "short", ["{{node}}", 'sum by (node) (increase(skywave_backplane_connects_total{node=~"$node"}[$__rate_interval]))']),
                graph("Catching up", "From reaching a master to having caught up on all of its channels.", "s", ...quantiles("skywave_backplane_sweep_seconds")),
                graph("Outcome unknown", "Publications that were sent and not answered in time.", "cps", ["{{node}}", 'sum by (node) (rate(skywave_backplane_unknown_outcomes_total{node=~"$node"}[$__rate_interval]))']),
            ],
            Continuity: [
                kinds("Gaps", "Told to channels. reset and rollback: publications were lost.", "short", ["{{kind}}", 'sum by (kind) (increase(skywave_backplane_gaps_total{node=~"$node"}[$__rate_interval]))']),
                graph("Fetched from history", "Publications that were not heard and were delivered all the same.", "cps", ["{{node}}", 'sum by (node) (rate(skywave_backplane_recovered_publications_total{node=~"$node"}[$__rate_interval]))']),
                graph("Histories read", "From the node's own ring, or from Redis.", "cps", rate("skywave_backplane_history_reads_total", "source")),
                graph("Overflows", "Publications came in faster than the node took them.", "short", ["{{node}}", 'sum by (node) (increase(skywave_backplane_overflows_total{node=~"$node"}[$__rate_interval]))']),
                graph("Not understood", "Publications that another version wrote: see UPGRADES.md.", "cps", ["{{node}}", 'sum by (node) (rate(skywave_backplane_unreadable_total{node=~"$node"}[$__rate_interval]))']),
                graph("Kept in rings", "Recent publications that nodes keep themselves; bounded by limits.node_ring_bytes.", "bytes", gauge("skywave_backplane_ring_bytes")),
            ],
            Redis: [
                graph("Memory", "Used, and maxmemory (0: none is set, which is a mistake).", "bytes", ["used", "redis_memory_used_bytes"], ["may", "redis_memory_max_bytes"]),
                graph("Commands", "Processed in a second.", "cps", ["{{instance}}", "rate(redis_commands_processed_total[$__rate_interval])"]),
                graph("Clients", "Connections to Redis: a few of each node.", "short", ["{{instance}}", "redis_connected_clients"]),
                graph("Bytes", "What Redis sends and gets: each publication goes out once for each node that has a subscriber.", "Bps", ["{{instance}} out", "rate(redis_net_output_bytes_total[$__rate_interval])"], ["{{instance}} in", "rate(redis_net_input_bytes_total[$__rate_interval])"]),
                graph("Replicas", "Of this Redis; durability = { replicated = N } needs N, min-replicas-to-write as many as it says.", "short", ["{{instance}}", "redis_connected_slaves"]),
                graph("Evicted keys", "Must be none: maxmemory-policy noeviction.", "cps", ["{{instance}}", "rate(redis_evicted_keys_total[$__rate_interval])"]),
            ],
        },
    },
    clients: {
        uid: "skywave-clients",
        title: "Skywave: what clients see",
        rows: {
            "Getting in": [
                kinds("Handshakes refused", "By reason; runbook handshakes-fail says what helps.", "cps", rate("skywave_handshakes_refused_total", "reason")),
                kinds("Tokens refused", "By reason; runbook tokens-refused.", "cps", rate("skywave_tokens_refused_total", "reason")),
                kinds("Limited", "What connections asked beyond a limit, by limit.", "cps", rate("skywave_limited_total", "limit")),
            ],
            "Staying in": [
                graph("Round trip", "From a ping to the client's pong: the clients' networks.", "s", ...quantiles("skywave_ping_round_trip_seconds")),
                kinds("Slow consumers", "Clients that did not read fast enough, by what was done.", "cps", rate("skywave_slow_consumers_total", "policy")),
                kinds("Closed, by reason", "All closes.", "cps", rate("skywave_connections_closed_total", "reason")),
            ],
            "Coming back": [
                graph("Recoveries", "Subscriptions that came back with a position.", "cps", rate("skywave_recoveries_total", "outcome")),
                graph("Of these not recovered", "They start over; runbook recoveries-fail.", "percentunit", ["not recovered", 'sum(rate(skywave_recoveries_total{node=~"$node",outcome="not_recovered"}[$__rate_interval])) / (sum(rate(skywave_recoveries_total{node=~"$node"}[$__rate_interval])) > 0) or vector(0)']),
                kinds("Settings loaded again", "By outcome; refused: the old ones stay.", "short", ["{{outcome}}", 'sum by (outcome) (increase(skywave_config_reloads_total{node=~"$node"}[$__rate_interval]))']),
            ],
            "The back end": [
                kinds("Webhooks", "Calls by hook and outcome; failed: no useful answer.", "cps", ["{{hook}} {{outcome}}", 'sum by (hook, outcome) (rate(skywave_webhooks_total{node=~"$node"}[$__rate_interval]))']),
                graph("How long calls take", "With all their tries; of events each try.", "s", ...quantiles("skywave_webhook_duration_seconds", "hook")),
                graph("Events waiting", "For their receiver, in order.", "short", gauge("skywave_webhook_events_waiting")),
            ],
        },
    },
};

const isStat = ({ type }) => type === "stat";
// The lines of a row: six numbers, or three graphs; those in the last line share its width.
function* linesOf(row) {
    for (let at = 0, length; at < row.length; at += length) {
        length = isStat(row[at]) ? 6 : 3;
        yield row.slice(at, at + length);
    }
}

const fieldOf = ({ unit, bad, isLow, mappings }) => ({
    unit,
    mappings,
    ...(bad !== undefined && {
        color: { mode: "thresholds" },
        thresholds: { mode: "absolute", steps: [{ value: null, color: isLow ? "red" : "green" }, { value: bad, color: isLow ? "green" : "red" }] },
    }),
});

const drawn = (panel) =>
    isStat(panel)
        ? {
              fieldConfig: { defaults: fieldOf(panel), overrides: [] },
              options: { reduceOptions: { calcs: ["lastNotNull"], fields: "", values: false }, colorMode: "value", graphMode: "area" },
          }
        : {
              fieldConfig: {
                  defaults: {
                      unit: panel.unit,
                      ...(panel.title === "State" && { mappings: STATES, max: 2 }),
                      custom: { fillOpacity: 8, lineWidth: 1, showPoints: "never", axisSoftMin: 0, axisSoftMax: LEAST_TOP[panel.unit] },
                  },
                  overrides: panel.overrides ?? [],
              },
              options: { legend: { displayMode: "list", placement: "bottom", showLegend: true, calcs: [] }, tooltip: { mode: "multi", sort: "desc" } },
          };

function panels(rows) {
    const made = [];
    let y = 0;
    for (const [title, row] of Object.entries(rows)) {
        made.push({ id: made.length + 1, type: "row", title, collapsed: false, panels: [], gridPos: { x: 0, y, w: 24, h: 1 } });
        y += 1;
        for (const line of linesOf(row)) {
            const [w, h] = [24 / line.length, isStat(line[0]) ? 4 : 8];
            for (const [at, panel] of line.entries()) {
                const { type, title, description } = panel;
                const targets = panel.targets.map(([legendFormat, expr], at) => ({ refId: "ABCDEF"[at], datasource, expr, legendFormat }));
                made.push({ id: made.length + 1, type, title, description, datasource, gridPos: { x: at * w, y, w, h }, targets, ...drawn(panel) });
            }
            y += h;
        }
    }
    return made;
}

const node = {
    name: "node",
    label: "Node",
    type: "query",
    datasource,
    query: { query: "label_values(skywave_build_info, node)", refId: "node" },
    refresh: 2,
    sort: 1,
    multi: true,
    includeAll: true,
    allValue: ".+",
    current: { text: ["All"], value: ["$__all"] },
    options: [],
};

let differs = false;
for (const [name, { uid, title, rows }] of Object.entries(dashboards)) {
    const links = Object.values(dashboards).filter((other) => other.uid !== uid);
    const dashboard = {
        uid,
        title,
        tags: ["skywave"],
        schemaVersion: 39,
        version: 1,
        editable: true,
        graphTooltip: 1,
        refresh: "10s",
        time: { from: "now-1h", to: "now" },
        timezone: "browser",
        annotations: { list: [] },
        templating: { list: [node] },
        links: links.map((other) => ({ type: "link", title: other.title, url: `/d/${other.uid}`, icon: "dashboard", targetBlank: false, keepTime: true, includeVars: true, asDropdown: false, tags: [], tooltip: "" })),
        panels: panels(rows),
    };
    const file = fileURLToPath(new URL(`dashboards/${name}.json`, import.meta.url));
    const text = `${JSON.stringify(dashboard, null, 2)}\n`;
    if (!process.argv.includes("--check")) writeFileSync(file, text);
    else if (readFileSync(file, "utf8") !== text) {
        console.error(`${file} is not what build.mjs makes: run node deploy/grafana/build.mjs`);
        differs = true;
    }
}
process.exit(differs ? 1 : 0);
