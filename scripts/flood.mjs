// Floods a node for a while, from one client, one user or one address, and counts what it lets through: a load for scripts/bench.mjs.
// node scripts/flood.mjs client|user|handshakes --url URL --rate R --limit L [--connections N --secret S] [--seconds S] [--json FILE]
//
// `client` publishes R times a second over one connection, and comes back at once when it is sent away; `user` does so over N
// connections at once, with a token that is signed with the secret, and tries one more all the time; `handshakes` opens R
// connections a second and ends each when it is in. It fails if a node lets more through than the limit L and a burst, or does not
// say which limit it was and for how long.
import { createHmac } from "node:crypto";
import { writeFileSync } from "node:fs";
import { connect } from "node:net";
import { parseArgs } from "node:util";

const { positionals: [kind], values: options } = parseArgs({
    allowPositionals: true,
    options: {
        url: { type: "string" }, rate: { type: "string" }, limit: { type: "string" }, seconds: { type: "string", default: "5" },
        json: { type: "string" }, connections: { type: "string", default: "1" }, secret: { type: "string", default: "" },
        // What all loads of the benchmark are given.
        "server-pid": { type: "string" }, threads: { type: "string" },
    },
});
const [rate, limit, seconds] = [options.rate, options.limit, options.seconds].map(Number);
const { hostname, port, pathname } = new URL(options.url);
const TICK_MS = 5;
const encode = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");

// What a back end would give the user.
function token() {
    const signed = `${encode({ alg: "HS256", typ: "JWT" })}.${encode({ sub: "flooder", exp: Math.floor(Date.now() / 1000) + 600 })}`;
    return `${signed}.${createHmac("sha256", options.secret).update(signed).digest("base64url")}`;
}

const path = kind === "user" ? `${pathname}?token=${token()}` : pathname;
const HANDSHAKE = `GET ${path} HTTP/1.1\r\nHost: ${hostname}:${port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n`
    + "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

const began = performance.now();
const isOver = () => performance.now() - began > seconds * 1000;
const report = { kind, rate, limit, sent: 0, accepted: 0, refused: 0, sent_away: 0, too_many: 0, connections: 0, complaints: [] };
const complain = (what) => report.complaints.length < 5 && report.complaints.push(what);

// Calls `each` as often as is due by now, however late the tick comes.
async function atRate(each, until) {
    const start = performance.now();
    let done = 0;
    while (!until()) {
        const due = Math.floor(((performance.now() - start) * rate) / 1000);
        for (; done < due; done++) each();
        await new Promise((resolve) => setTimeout(resolve, TICK_MS));
    }
}

// A text frame of less than 126 bytes, masked with zeros: the mask is no secret here.
function frame(text) {
    const payload = Buffer.from(text);
    return Buffer.concat([Buffer.from([0x81, 0x80 | payload.length, 0, 0, 0, 0]), payload]);
}

// The frames at the beginning of what was read, and the rest.
function frames(bytes) {
    const found = [];
    for (;;) {
        if (bytes.length < 2) return [found, bytes];
        const short = bytes[1] & 0x7f;
        const head = short === 126 ? 4 : 2;
        const length = short === 126 && bytes.length >= 4 ? bytes.readUInt16BE(2) : short;
        if (bytes.length < head + length) return [found, bytes];
        found.push({ opcode: bytes[0] & 15, payload: bytes.subarray(head, head + length) });
        bytes = bytes.subarray(head + length);
    }
}

// One connection, until it is closed or the time is over.
function client() {
    return new Promise((resolve) => {
        const socket = connect(Number(port), hostname);
        const opened = performance.now();
        let [unread, isIn, isClosed, accepted] = [Buffer.alloc(0), false, false, 0];
        socket.on("error", () => {});
        socket.on("close", () => {
            isClosed = true;
            const most = limit * (1 + (performance.now() - opened) / 1000);
            if (accepted > most) complain(`${accepted} accepted where ${Math.floor(most)} were allowed`);
            resolve();
        });
        socket.on("data", (bytes) => {
            unread = Buffer.concat([unread, bytes]);
            if (!isIn) {
                const end = unread.indexOf("\r\n\r\n");
                if (end < 0) return;
                if (!unread.toString("latin1").startsWith("HTTP/1.1 101 ")) complain(unread.toString("latin1", 0, 200));
                unread = unread.subarray(end + 4);
                isIn = true;
                report.connections++;
                const command = frame('{"id":1,"publish":{"channel":"live:flood","data":"flood"}}');
                atRate(() => { report.sent++; socket.write(command); }, () => isClosed || isOver()).then(() => socket.end());
            }
            let found;
            [found, unread] = frames(unread);
            for (const { opcode, payload } of found) {
                const text = payload.toString();
                if (opcode === 8) {
                    report.sent_away++;
                    const code = payload.readUInt16BE(0);
                    if (code === 4505 && kind === "user") report.too_many++;
                    else if (code !== 4007) complain(`closed with ${code}`);
                    socket.end();
                } else if (text.includes('"published"')) {
                    accepted++;
                    report.accepted++;
                } else if (text.includes('"error"')) {
                    report.refused++;
                    const isTold = /limits\.\w+ is \d+: wait \d+ ms.*"after_ms":\d+/.test(text)
                        || (kind === "user" && text.includes("limits.connections_per_user is"));
                    if (!isTold) complain(text);
                }
            }
        });
        socket.write(HANDSHAKE);
    });
}

function handshake() {
    report.sent++;
    const socket = connect(Number(port), hostname);
    let answer = "";
    socket.on("error", () => {});
    socket.on("data", (bytes) => {
        answer += bytes.toString("latin1");
        if (!answer.includes("\r\n\r\n")) return;
        if (answer.startsWith("HTTP/1.1 101 ")) {
            report.accepted++;
        } else {
            report.refused++;
            if (!/^HTTP\/1\.1 503 [\s\S]*retry-after: [1-5]\r\n/.test(answer)) complain(answer.slice(0, 200));
        }
        socket.destroy();
    });
    socket.write(HANDSHAKE);
}

if (kind === "client" || kind === "user") {
    const connections = Number(options.connections) + (kind === "user" ? 1 : 0);
    const goOn = async () => {
        while (!isOver()) {
            await client();
            await new Promise((resolve) => setTimeout(resolve, kind === "user" ? 100 : 0));
        }
    };
    await Promise.all(Array.from({ length: connections }, goOn));
    if (kind === "user" && report.too_many === 0) complain("one connection too many was let in");
} else {
    await atRate(handshake, isOver);
    await new Promise((resolve) => setTimeout(resolve, 1500)); // those that wait for their turn
    const most = limit * (seconds + 1.5 + 1);
    if (report.accepted > most) complain(`${report.accepted} handshakes were taken where ${most} were allowed`);
}
if (report.refused === 0) complain("nothing was refused");
report.seconds = (performance.now() - began) / 1000;
console.log(JSON.stringify(report));
if (options.json) writeFileSync(options.json, JSON.stringify(report));
process.exit(report.complaints.length > 0 ? 1 : 0);
