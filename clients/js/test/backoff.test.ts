import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { delay, mayReconnect, SPREAD_CAP_MS, SPREAD_MS } from "../src/backoff.js";

test("a delay is the node's own and then anything up to the spread, which doubles up to its cap", () => {
    expect(delay(0, 350, 0)).toBe(350);
    expect(delay(0, 350, 0.5)).toBe(350 + SPREAD_MS / 2);
    expect(delay(3, 0, 0.5)).toBe(SPREAD_MS * 4);
    expect(delay(60, 0, 1)).toBe(SPREAD_CAP_MS);
});

test("the client comes back from the closes that the node's own table says", () => {
    const table = readFileSync(new URL("../../../proto/src/close.rs", import.meta.url), "utf8");
    const codes = [...table.matchAll(/=> \((\d{4}), "/g)].map(([, code]) => Number(code));
    expect(codes.length).toBeGreaterThan(20);
    const comesBack = (code: number) => code === 1001 || (code >= 1011 && code <= 1013) || (code >= 4000 && code <= 4499);
    expect(codes.filter(mayReconnect)).toEqual(codes.filter(comesBack));
    expect([1005, 1006, 3000].every(mayReconnect), "a network that failed").toBe(true);
});
