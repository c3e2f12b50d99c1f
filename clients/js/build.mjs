// node build.mjs: dist/ (ESM, CJS, types). `bundle` is the ESM file in one, as the demo has it and the size is measured.
import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const banner = "// Generated from clients/js by `make client-js`: do not edit.";

export async function bundle(format, options = {}) {
    const { outputFiles } = await build({
        absWorkingDir: here,
        entryPoints: ["src/index.ts"],
        bundle: true,
        format,
        platform: "neutral",
        target: "es2022",
        minify: true,
        legalComments: "none",
        write: false,
        ...options,
    });
    return outputFiles[0].text;
}

// What stands in gateway/demo, for a page without a build.
export const demoFile = join(here, "../../gateway/demo/skywave.js");
export const demoText = async () => `${banner}\n${await bundle("esm")}`;

async function main() {
    rmSync(join(here, "dist"), { recursive: true, force: true });
    mkdirSync(join(here, "dist"));
    writeFileSync(join(here, "dist/index.js"), await bundle("esm"));
    writeFileSync(join(here, "dist/index.cjs"), await bundle("cjs"));
    execFileSync(process.execPath, [join(here, "node_modules/typescript/bin/tsc"), "-p", join(here, "tsconfig.types.json")], { stdio: "inherit" });
    // The types of the CJS file are a CJS file's: else TypeScript takes them for a module that cannot be required.
    const types = join(here, "dist/types");
    for (const file of readdirSync(types).filter((name) => name.endsWith(".d.ts"))) {
        writeFileSync(join(types, file.replace(/\.d\.ts$/, ".d.cts")), readFileSync(join(types, file), "utf8").replaceAll(/\.js"/g, '.cjs"'));
    }
    if (process.argv.includes("--demo")) writeFileSync(demoFile, await demoText());
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main();
