// Where a node's CPU goes while it sends one publication at a time to 1,000: `make profile`. Wants `perf` and the rights for it.
// node scripts/bench-profile.mjs [CLIENTS [WINDOW]]: shares of all samples, the kernel as one line, our functions each.
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { start, tail } from "../tests/cluster/processes.mjs";
import { drive, node } from "./bench-servers.mjs";

const [clients = "1000", window = "1"] = process.argv.slice(2);
const SECONDS = "6";
const FUNCTIONS = 25;

const directory = mkdtempSync(join(tmpdir(), "skywave-profile-"));
process.on("exit", () => rmSync(directory, { recursive: true, force: true }));
const data = join(directory, "perf.data");

// Once all are connected, and not until the end.
async function record(pid, allIn) {
    await allIn();
    const perf = start("perf", directory, "perf", ["record", "-q", "-F", "1999", "-o", data, "-p", String(pid), "--", "sleep", SECONDS]);
    const code = await perf.ended;
    if (code !== 0) throw new Error(`perf ended with ${code}:\n${tail(perf)}`);
}

const load = ["fanout", "--channel", "live:profile", "--clients", clients, "--size", "128", "--window", window, "--duration", "12s"];
await drive(node(), [{ load: window === "1" ? load : [...load, "--burst"] }], 60, record);

const report = execFileSync("perf", ["report", "-i", data, "--stdio", "--no-children", "--sort", "dso,symbol", "-F", "overhead,dso,symbol"],
    { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"], maxBuffer: 64 << 20 });
// One line for each function, whatever became of its generics.
const functions = new Map();
for (const [, share, object, mode, words] of report.matchAll(/^\s+([\d.]+)%\s+(\S+)\s+\[(.)\]\s+(.+)$/gm)) {
    const name = words.replace(/(\s+-)*\s*$/, "").replace(/::h[0-9a-f]{16}$/, "");
    const line = functions.get(`${object} ${name}`) ?? { share: 0, object, name, isKernel: mode === "k" };
    line.share += Number(share);
    functions.set(`${object} ${name}`, line);
}
const lines = [...functions.values()].sort((one, other) => other.share - one.share);
const sum = (these) => these.reduce((total, { share }) => total + share, 0);
const [kernel, user] = [lines.filter(({ isKernel }) => isKernel), lines.filter(({ isKernel }) => !isKernel)];
console.log(`\n| share | where | function |\n|---|---|---|\n| ${sum(kernel).toFixed(1)} % | kernel | all of it |`);
for (const { share, object, name } of user.slice(0, FUNCTIONS)) {
    console.log(`| ${share.toFixed(2)} % | ${object} | \`${name.replaceAll("|", "\\|")}\` |`);
}
const rest = user.slice(FUNCTIONS);
console.log(`| ${sum(rest).toFixed(1)} % | | ${rest.length} others |`);
