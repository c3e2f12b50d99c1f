// What is compared: groups of servers that get the same load in the same round, and the figures that come of it.
//
// A group: `name` (for --only); `variants`, each a server and what drives it; `rounds` if not all; `seconds` that a run may take;
// `figures`: name, target, what it is computed from (the reports of one round); what is told without being judged: `aside`, a figure of
// each server, and `tells`, words about all rounds; `alike`: bytes a delivery, which must be the same of every server.
import { floor, node, uws } from "./bench-servers.mjs";

// A variant that not every machine can run.
export const PEER = "µWebSockets";
const LIVE = "live:bench";
const fanout = (clients, size, window, duration, ...more) => [
    "fanout", "--channel", LIVE, "--clients", String(clients), "--size", String(size), "--window", String(window),
    "--duration", duration, ...more,
];
const one = (serve, load, options) => ({ serve, scenarios: [{ load, ...options }] });

// A report has null where nothing could be read, and to JavaScript null / 1024 is 0, which meets every target.
const known = (figure) => {
    if (!Number.isFinite(figure)) throw new Error("no figure: a report does not have it");
    return figure;
};
// Nothing is free: a cost of 0 was not measured.
const positive = (figure) => {
    if (known(figure) <= 0) throw new Error(`no figure: a cost of ${figure}`);
    return figure;
};

const bytesEach = ([report]) => positive(report.generator.received_bytes) / positive(report.deliveries.received);
const cpu = ([report]) => report.server?.cpu_us_per_delivery;
const ratio = (of, to, cost = cpu) =>
    Object.assign((round) => positive(cost(round[of])) / positive(cost(round[to])), { wants: [of, to] });
const last = ([report]) => report.latency.last_of_all && report.latency.last_of_all.p50_us / 1000;

const grouped = (number) => String(number).replace(/\B(?=(\d{3})+$)/g, ",");
const bytes = (size) => (size === 1024 ? "1 KiB" : `${size} B`);

// At 10,000 a run takes three times as long; its figures swing less.
const fewer = (rounds) => Math.ceil(rounds / 2);

const latency = [1000, 10_000].flatMap((clients) => [128, 1024].map((size) => {
    const load = fanout(clients, size, 1, clients > 1000 ? "3s" : "2s");
    return {
        name: `latency-${clients}-${size}`,
        rounds: clients > 1000 ? fewer : undefined,
        variants: { node: one(node(), load), floor: one(floor("fanout"), load) },
        figures: [{
            figure: `fan-out, one at a time, ${grouped(clients)} x ${bytes(size)}: CPU a delivery, x the bare loop`,
            target: 1.15,
            of: ratio("node", "floor"),
        }],
        alike: bytesEach,
        aside: { "us a delivery": cpu, "last of N, p50 ms": last },
    };
}));

const saturation = [1000, 10_000].flatMap((clients) => [128, 1024].map((size) => {
    const window = clients > 1000 ? 16 : 32;
    const load = fanout(clients, size, window, clients > 1000 ? "3s" : "2s", "--burst");
    const what = `fan-out, ${window} at once, ${grouped(clients)} x ${bytes(size)}: CPU a delivery`;
    return {
        name: `saturation-${clients}-${size}`,
        rounds: clients > 1000 ? fewer : undefined,
        variants: { node: one(node(), load), batched: one(floor("fanout", "--batched"), load), floor: one(floor("fanout"), load) },
        figures: [
            { figure: `${what}, x the bare loop with the same batch`, target: 1.25, of: ratio("node", "batched") },
            { figure: `${what}, x one send a message`, target: size === 128 ? 0.12 : undefined, of: ratio("node", "floor") },
        ],
        alike: bytesEach,
        aside: { "us a delivery": cpu },
    };
}));

const tlsLoad = fanout(1000, 128, 32, "2s", "--burst");
const tls = {
    name: "tls",
    variants: { node: one(node({ tls: true }), tlsLoad), floor: one(floor("fanout"), tlsLoad) },
    figures: [{
        figure: "fan-out over TLS, 32 at once, 1,000 x 128 B: CPU a delivery, x one plain send a message",
        target: 0.2,
        of: ratio("node", "floor"),
    }],
    alike: bytesEach,
    aside: { "us a delivery": cpu },
};

const crowd = {
    name: "quiet",
    rounds: fewer,
    seconds: 90,
    // The quiet ones come when the crowd is in, and leave before it.
    variants: Object.fromEntries([["node", node()], ["floor", floor("fanout")]].map(([name, serve]) => [name, {
        serve,
        scenarios: [
            { load: fanout(10_000, 128, 1, "6s") },
            { load: ["channels", "--channel", "live:quiet", "--channels", "25", "--members", "2", "--rate", "0.5", "--duration", "4s"], later: true },
        ],
    }])),
    figures: [{
        figure: "10,000 on one channel beside 50 quiet ones: CPU a delivery, x the bare loop",
        target: 1.15,
        of: ratio("node", "floor"),
    }],
    alike: bytesEach,
    aside: {
        "us a delivery": cpu,
        // Their generator shares its core with the crowd's: most of it is that.
        "quiet ones' p99 ms": ([, quiet]) => quiet.latency.from_schedule.p99_us / 1000,
    },
};

const channelsLoad = ["channels", "--channel", LIVE, "--channels", "100", "--members", "10", "--rate", "4", "--duration", "4s"];
const channels = {
    name: "channels",
    variants: { node: one(node(), channelsLoad), [PEER]: one(uws(), channelsLoad), floor: one(floor("fanout"), channelsLoad) },
    figures: [
        { figure: "100 channels of 10, all publish 4/s: CPU a delivery, x µWebSockets", target: 1.1, of: ratio("node", PEER) },
        { figure: "the same, x the bare loop", of: ratio("node", "floor") },
    ],
    alike: bytesEach,
    aside: { "us a delivery": cpu, "p99 ms": ([report]) => report.latency.from_schedule.p99_us / 1000 },
};

const peerLoad = fanout(1000, 128, 8, "2s", "--burst");
const peer = {
    name: "peer",
    variants: { node: one(node(), peerLoad), [PEER]: one(uws(), peerLoad) },
    figures: [{ figure: "fan-out, 8 at once, 1,000 x 128 B: CPU a delivery, x µWebSockets", of: ratio("node", PEER) }],
    alike: bytesEach,
    aside: { "us a delivery": cpu },
};

// All have what a node gives by default, and the limits of the flood: the healthy ones stay below theirs.
const LIMITS = { commands_per_second: 200, publications_per_second: 100, bytes_per_second: "1MiB", handshakes_per_second: 50 };
const healthy = { load: ["fanout", "--channel", LIVE, "--clients", "1000", "--rate", "80", "--duration", "6s", "--connecting", "10"] };
const limited = { serve: node({ limits: LIMITS }), scenarios: [healthy] };
// A user with as many connections as one may have, all of which flood.
const SECRET = "a secret of the benchmark: 32 bytes and more";
const TOKENS = `[auth.tokens]\nkeys = [{ alg = "HS256", secret = "${SECRET}" }]`;
const perUser = { serve: node({ limits: { ...LIMITS, connections_per_user: 4 }, settings: TOKENS }) };
const flooded = (...load) => ({ ...limited, scenarios: [healthy, { load: ["flood", ...load, "--seconds", "6"], later: true }] });
const flood = {
    name: "flood",
    rounds: fewer,
    seconds: 120,
    variants: {
        none: limited,
        client: flooded("client", "--rate", "1000", "--limit", "100"),
        user: { ...flooded("user", "--rate", "1000", "--limit", "100", "--connections", "4", "--secret", SECRET), ...perUser },
        handshakes: flooded("handshakes", "--rate", "500", "--limit", "50"),
    },
    figures: [
        { figure: "one client publishes ten times too fast: CPU a healthy delivery, x none", target: 1.3, of: ratio("client", "none") },
        { figure: "one user does so over four connections: CPU a healthy delivery, x none", target: 1.3, of: ratio("user", "none") },
        { figure: "one address shakes hands ten times too fast: CPU a healthy delivery, x none", target: 1.3, of: ratio("handshakes", "none") },
    ],
    aside: { "us a healthy delivery": cpu, "p99 ms": ([report]) => report.latency.from_schedule.p99_us / 1000 },
    tells: (rounds) => ["client", "user", "handshakes"].map((kind) => {
        const sum = (what) => rounds.reduce((total, { [kind]: [, report] }) => total + report[what], 0);
        return `${kind}: ${sum("accepted")} of ${sum("sent")} let through, ${sum("sent_away")} times sent away`;
    }),
};

const KIB = 1024;
// Long enough that what the kernel takes for them is full, and their outboxes too.
// A node ends them all: that is the default of a namespace.
const stalledLoad = (share) => ["stalled", "--stalled", share, "--expect", "ended: ", ...fanout(1000, 1024, 8, "5s", "--burst").slice(1)];
const stalled = {
    name: "stalled",
    variants: { stalled: one(node(), stalledLoad("10%")), none: one(node(), stalledLoad("0%")) },
    figures: [
        { figure: "10 % of 1,000 stop reading: CPU a healthy delivery, x none", target: 1.15, of: ratio("stalled", "none") },
        {
            // They hold the same shared frames: a copy for each would be up to outbox_bytes, 1,024 KiB.
            figure: "node's memory for each that does not read, at its highest", target: 64, unit: "KiB",
            of: ({ stalled: [report] }) => known(report.stalled.resident_bytes_each_at_most) / KIB,
        },
    ],
    aside: { "us a healthy delivery": cpu },
    tells: (rounds) => {
        const times = new Map();
        for (const { stalled: [report] } of rounds) {
            for (const [how, count] of Object.entries(report.stalled.outcomes)) times.set(how, (times.get(how) ?? 0) + count);
        }
        return [...times].map(([how, count]) => `${count} x ${how}`);
    },
};

// The same kilobyte of JSON to all. What the generator writes is mostly padding, and so the bytes say more than they would in life.
const deflateLoad = (...more) => fanout(1000, 1024, 1, "2s", ...more);
const deflate = {
    name: "deflate",
    variants: { deflate: one(node(), deflateLoad("--deflate")), plain: one(node(), deflateLoad()) },
    figures: [
        {
            figure: "1 KiB to 1,000 that inflate: CPU a publication, x without", target: 1.15,
            of: ratio("deflate", "plain", ([report]) => report.server?.cpu_us_per_publication),
        },
        {
            figure: "the same: bytes on the wire a delivery, x without", target: 0.5,
            of: ratio("deflate", "plain", bytesEach),
        },
        {
            // A context would be tens of KiB.
            figure: "the same: memory of a connection, beyond without", target: 1, unit: "KiB",
            of: ({ deflate: [with_], plain: [without] }) => (resident(with_) - resident(without)) / KIB,
        },
    ],
    aside: { "us a publication": ([report]) => report.server?.cpu_us_per_publication },
};
const resident = ({ server: { resident_bytes_after: after, resident_bytes_before: before }, setting: { clients, publishers } }) =>
    (positive(after) - positive(before)) / (clients + publishers);

const memory = ([report]) => positive(report.resident_bytes_each) / KIB;
// Memory hardly swings. The rest is twice `timeouts.ping_interval`, so that every connection is pinged twice in it.
const idle = {
    name: "idle",
    rounds: (all) => Math.ceil(all / 3),
    seconds: 120,
    variants: {
        subscribed: one(node(), ["idle", "--channel", LIVE, "--clients", "10000", "--duration", "50s", "--burst", "256x1024"]),
        transport: one(node(), ["idle", "--bare", "--clients", "10000", "--duration", "1s"], { path: "/echo" }),
        TLS: one(node({ tls: true }), ["idle", "--channel", LIVE, "--clients", "5000", "--duration", "1s"]),
        floor: one(floor("idle"), ["idle", "--bare", "--clients", "10000", "--duration", "1s"]),
    },
    figures: [
        { figure: "idle, 10,000 subscribed: memory each", target: 4, unit: "KiB", of: ({ subscribed }) => memory(subscribed) },
        { figure: "idle, 10,000 that only shook hands: memory each", target: 1.6, unit: "KiB", of: ({ transport }) => memory(transport) },
        { figure: "the same, x a bare tokio task with a TcpStream", target: 1.5, of: ratio("transport", "floor", memory) },
        { figure: "idle over TLS, 5,000 subscribed: memory each", target: 10, unit: "KiB", of: ({ TLS }) => memory(TLS) },
        {
            figure: "growth each after 256 x 1 KiB to all 10,000", target: 0.5, unit: "KiB",
            of: ({ subscribed: [{ burst }] }) => known(burst.resident_bytes_grown_each) / KIB,
        },
        {
            figure: "CPU of 10,000 idle for 50 s, two pings each", target: 0.5, unit: "% of a core",
            of: ({ subscribed: [report] }) => positive(report.cpu_percent_of_a_core),
        },
    ],
    aside: { "KiB each": memory },
    // Where it had not, the CPU of the rest holds some of connecting.
    tells: (rounds) => {
        const busy = rounds.filter(({ subscribed: [{ settled }] }) => settled !== true).length;
        return busy > 0 ? [`in ${busy} of ${rounds.length} rounds the node had not come to rest before the rest`] : [];
    },
};

const churnLoad = (...more) => ["churn", "--clients", "4000", "--connecting", "50", ...more];
const churned = ([report]) => report.server_cpu_us_per_connection;
const churn = {
    name: "churn",
    variants: { node: one(node(), churnLoad("--channel", LIVE)), floor: one(floor("upgrade"), churnLoad("--bare")) },
    figures: [{
        figure: "handshake, connect and subscribe: CPU, x a bare hyper upgrade that answers one frame", target: 1.4,
        of: ratio("node", "floor", churned),
    }],
    aside: {
        "us a connection": churned,
        "connections/s": ([report]) => report.connections_per_second,
        "handshake p99 ms": ([report]) => report.handshake.p99_us / 1000,
    },
};

const inbound = [1, 8].map((inFlight) => {
    const load = ["echo", "--stopped", "--publish-to", "live:nobody", "--clients", "1000", "--size", "64", "--in-flight", String(inFlight)];
    // No publication is answered: what the node threw away would be cheap. A floor counts nothing.
    const cost = ([{ frames, node_published = frames, median_us_per_frame }]) => {
        if (node_published !== frames) throw new Error(`${frames} publications were sent and ${node_published} published`);
        return median_us_per_frame;
    };
    return {
        name: `inbound-${inFlight}`,
        variants: { node: one(node(), load), floor: one(floor("read"), load) },
        figures: [{
            figure: `a small publication to nobody, ${inFlight} a read: CPU, x a bare loop that takes frames apart`, target: 1.5,
            of: ratio("node", "floor", cost),
        }],
        aside: { "us a publication": cost },
    };
});

// Both rows of the fan-out first: they decide the rest.
export const groups = [...latency, ...saturation, tls, crowd, idle, churn, ...inbound, channels, peer, stalled, flood, deflate];
