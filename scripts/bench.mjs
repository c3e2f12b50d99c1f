// What a node costs, as ratios to bare loops and to µWebSockets in the same run: `make bench` runs it. A quarter of an hour.
// node scripts/bench.mjs [--rounds R] [--only NAME[,NAME…]] [--list]: the table for docs/PERFORMANCE.md on stdout, the rest on stderr.
//
// In each round every server of a group gets the same load, one after the other; a ratio is taken within its round, and what
// stands in the table is the median of the rounds. BENCH_SKYWAVE and BENCH_LOADTEST name other binaries than target/release's.
import { availableParallelism, cpus } from "node:os";
import { parseArgs } from "node:util";
import { PEER, groups } from "./bench-rows.mjs";
import { drive, uwsIsMissing } from "./bench-servers.mjs";

const { values: options } = read({
    rounds: { type: "string", default: "5" }, only: { type: "string" }, list: { type: "boolean", default: false },
});
const rounds = Number(options.rounds);
const wanted = options.only?.split(",");
// A part of a name names all that begin with it.
const named = (one) => groups.filter(({ name }) => name.startsWith(one));
const names = groups.map(({ name }) => name).join("\n");
if (options.list) {
    console.log(names);
    process.exit(0);
}
const unknown = wanted?.find((one) => one === "" || named(one).length === 0);
if (!Number.isInteger(rounds) || rounds < 1) misused("--rounds is a number from 1");
if (unknown !== undefined) misused(`--only: no group begins with "${unknown}"; there are\n${names}`);
if (cpus().length < 2 || availableParallelism() < 2) misused("the server and the generator want a core each");
const chosen = groups.filter((group) => wanted === undefined || wanted.some((one) => named(one).includes(group)));

function read(known) {
    try {
        return parseArgs({ options: known });
    } catch (error) {
        return misused(error.message);
    }
}

// As in sysexits.h.
function misused(why) {
    console.error(`bench: ${why}`);
    process.exit(64);
}

// Said first, and not after a quarter of an hour.
const noPeer = chosen.some(({ variants }) => variants[PEER]) ? uwsIsMissing() : undefined;
if (noPeer) console.error(`${noPeer}\nLeft out: the rows that are ratios to it.`);

// A group as this machine can run it, and the figures that it cannot have. Without a peer some have nothing left to compare.
function possible(group) {
    if (!noPeer || !group.variants[PEER]) return { group, missing: [] };
    const { [PEER]: _, ...variants } = group.variants;
    const isPossible = ({ of }) => !of.wants?.includes(PEER);
    const figures = group.figures.filter(isPossible);
    return { group: { ...group, variants, figures }, missing: group.figures.filter((figure) => !isPossible(figure)) };
}

const median = (figures) => {
    const sorted = figures.toSorted((a, b) => a - b);
    const middle = sorted.length >> 1;
    return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
};
const digits = (number) => (number >= 100 ? number.toFixed(0) : number >= 10 ? number.toFixed(1) : number.toFixed(2));
const unit = (number, name = "") => `${digits(number)}${name && ` ${name}`}`;

// All rounds of a group: by round, by variant, the reports. Who is first changes from round to round.
async function measure({ name, variants, rounds: share = (all) => all, seconds = 60, alike }) {
    const results = [];
    const names = Object.keys(variants);
    for (let round = 0; round < share(rounds); round++) {
        const result = {};
        for (const variant of names.map((_, place) => names[(place + round) % names.length])) {
            const { serve, scenarios } = variants[variant];
            result[variant] = await drive(serve, scenarios, seconds);
            console.error(`${name} ${round + 1}: ${variant} done`);
        }
        if (alike) demandAlike(result, alike);
        results.push(result);
    }
    return results;
}

// Who says less has less to do: what is compared must have said the same to everybody, to a hundredth.
function demandAlike(result, bytesEach) {
    const found = Object.entries(result).map(([variant, reports]) => [variant, bytesEach(reports)]);
    const each = found.map(([, bytes]) => bytes);
    if (Math.max(...each) <= Math.min(...each) * 1.01) return;
    throw new Error(`not the same bytes a delivery: ${found.map(([variant, bytes]) => `${variant} ${bytes?.toFixed(1)}`).join(", ")}`);
}

// A line of the table: the median of the rounds, and between what they lay.
function line({ figure, target, of, unit: in_ }, results) {
    const found = results.map(of);
    if (!found.every(Number.isFinite)) throw new Error(`no figure: ${figure}`);
    const [middle, low, high] = [median(found), Math.min(...found), Math.max(...found)];
    const met = target === undefined ? "" : middle <= target ? "yes" : "**no**";
    return `| ${figure} | ${wantedAtMost(target, in_)} | ${unit(middle, in_)} | ${digits(low)}-${digits(high)} | ${met} |`;
}
const wantedAtMost = (target, in_) => (target === undefined ? "" : `<= ${unit(target, in_)}`);

// What is told without being judged; a figure that no round has is left out.
function told({ variants, aside = {}, tells }, results) {
    const parts = Object.entries(aside).map(([what, of]) => {
        const each = Object.keys(variants).flatMap((variant) => {
            const found = results.map((result) => of(result[variant])).filter(Number.isFinite);
            return found.length > 0 ? [`${variant} ${digits(median(found))}`] : [];
        });
        return each.length > 0 ? `${what}: ${each.join(", ")}` : "";
    });
    return [...parts, ...(tells?.(results) ?? [])].filter(Boolean).join("; ");
}

const began = Date.now();
const asides = [];
const failures = [];
console.log("| figure | target | measured | from-to | met |\n|---|---|---|---|---|");
for (const { group, missing } of chosen.map(possible)) {
    for (const { figure, target, unit: in_ } of missing) console.log(`| ${figure} | ${wantedAtMost(target, in_)} | left out | | |`);
    if (group.figures.length === 0) continue;
    // The figures belong to it: one that is missing in a report fails the group, and not the run.
    try {
        const results = await measure(group);
        const lines = group.figures.map((figure) => line(figure, results));
        asides.push(`${group.name}: ${told(group, results)}`);
        console.log(lines.join("\n"));
    } catch (error) {
        failures.push(`${group.name}: ${error.message}`);
        for (const { figure, target, unit: in_ } of group.figures) {
            console.log(`| ${figure} | ${wantedAtMost(target, in_)} | failed | | |`);
        }
    }
}
console.log(`\n${asides.map((aside) => `- ${aside}`).join("\n")}`);
console.error(`\n${((Date.now() - began) / 60_000).toFixed(1)} minutes`);
if (failures.length > 0) {
    console.error(`\nnot measured:\n${failures.join("\n\n")}`);
    process.exitCode = 1;
}
