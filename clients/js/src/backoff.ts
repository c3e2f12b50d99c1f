// When to come back, and whether. Pure.

/** The spread after the first failure, in milliseconds; doubled with each further one, up to the cap. */
export const SPREAD_MS = 1_000;
export const SPREAD_CAP_MS = 20_000;

/**
 * Milliseconds until the next attempt: the node's own delay first, then full jitter, so that a thousand clients that lost one
 * node do not reach the next one together. `failures` have happened in a row; `random` is in [0, 1).
 */
export function delay(failures: number, afterMs: number, random: number): number {
    return afterMs + random * Math.min(SPREAD_CAP_MS, SPREAD_MS * 2 ** failures);
}

/** 1000 means that both have said what they wanted, 1002 to 1009 that we did wrong; 4500 to 4999 that coming back would not help. */
export function mayReconnect(code: number): boolean {
    return !(code === 1000 || [1002, 1003, 1007, 1008, 1009].includes(code) || (code >= 4500 && code <= 4999));
}
