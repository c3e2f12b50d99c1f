import { defineConfig } from "vitest/config";

export default defineConfig({
    test: {
        include: ["test/**/*.test.ts"],
        globalSetup: "test/build.ts",
        testTimeout: 15_000,
        // Nodes and servers are processes and ports of a file's own; two cores do not run more at once.
        maxWorkers: 2,
    },
});
