// What is shipped: its size, its two forms, the README's quick start, and the copy in the demo.
import { execFileSync } from "node:child_process";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { expect, test } from "vitest";
import { demoFile, demoText } from "../build.mjs";
import { node } from "./support.js";

const here = (path: string) => fileURLToPath(new URL(`../${path}`, import.meta.url));
const MOST_BYTES = 8_000;

test("is smaller than 8 kB", () => {
    const { length } = gzipSync(readFileSync(here("dist/index.js")), { level: 9 });
    console.log(`dist/index.js: ${length} bytes gzipped`);
    expect(length).toBeLessThan(MOST_BYTES);
});

test("has no dependencies, and is loaded by its name in both forms", async () => {
    const { dependencies } = JSON.parse(readFileSync(here("package.json"), "utf8")) as { dependencies?: object };
    expect(dependencies).toBeUndefined();
    // A package may name itself; outside the test runner, which would resolve it in its own way.
    const run = (...args: string[]) => execFileSync(process.execPath, args, { cwd: here("."), encoding: "utf8" }).trim();
    const print = "console.log(typeof Client, new Client('http://a').state, SkywaveError.name.length > 0, typeof Subscription)";
    const names = "{ Client, SkywaveError, Subscription }";
    expect(run("--input-type=module", "-e", `import ${names} from "@skywave/client"; ${print}`)).toBe("function idle true function");
    expect(run("--input-type=commonjs", "-e", `const ${names} = require("@skywave/client"); ${print}`)).toBe("function idle true function");
});

test.each(["module", "commonjs"] as const)("has types that a strict project takes, as %s", (type) => {
    const file = here(`test/uses-types.${type === "module" ? "mts" : "cts"}`);
    writeFileSync(
        file,
        `import { Client, SkywaveError, type Gap, type Publication } from "@skywave/client";
const client: Client = new Client("http://a", { getToken: async () => "t" });
client.subscribe<{ x: number }>("a").on("publication", (one: Publication<{ x: number }>) => one.data.x.toFixed());
client.subscribe("a").on("gap", ({ reason }: Gap) => reason);
// @ts-expect-error there is no such event
client.on("nothing", () => {});
client.publish("a", 1).catch((error: unknown) => error instanceof SkywaveError && error.afterMs);
`,
    );
    try {
        const args = ["--ignoreConfig", "--noEmit", "--strict", "--module", "nodenext", "--target", "es2022", "--lib", "es2022,dom", "--types", "", file];
        execFileSync(process.execPath, [here("node_modules/typescript/bin/tsc"), ...args], { cwd: here("."), encoding: "utf8" });
    } catch (error) {
        expect.fail((error as { stdout: string }).stdout);
    } finally {
        rmSync(file);
    }
});

test("the quick start of the README does what it says", async () => {
    const { url } = await node();
    const [, code = ""] = /```js quick-start\n(.*?)```/s.exec(readFileSync(here("README.md"), "utf8")) ?? [];
    expect(code).toContain('new Client("http://localhost:8000")');
    // What the text says of older Node.js, and an end.
    const runs = code
        .replace('new Client("http://localhost:8000")', `new Client("${url}", { WebSocket })`)
        .replace(/^/, `import { WebSocket } from "ws";\n`)
        .concat(`setTimeout(() => client.close(), 300);`);
    const said = execFileSync(process.execPath, ["--input-type=module", "-e", runs], { cwd: here("."), encoding: "utf8", timeout: 10_000 });
    expect(said).toContain("1 { text: 'hello' }");
});

test("the demo has this build (`make client-js` writes it)", async () => {
    expect(readFileSync(demoFile, "utf8")).toBe(await demoText());
});

test("the build names nobody's machine", () => {
    for (const file of ["dist/index.js", "dist/index.cjs"]) expect(readFileSync(here(file), "utf8")).not.toMatch(/\/(root|home|tmp|work)\//);
    expect(createRequire(import.meta.url).resolve("@skywave/client")).toBe(here("dist/index.cjs"));
});
