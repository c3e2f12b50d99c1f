declare module "*/processes.mjs" {
    export interface Child {
        hasEnded: boolean;
        process: { pid: number; kill(signal: string): boolean };
    }
    export const root: string;
    export const skywave: string;
    export function start(name: string, directory: string, program: string, args: string[], settings?: Record<string, string>): Child;
    export function kill(child: Child): Promise<void>;
    export function freePorts(count: number): Promise<number[]>;
    export function untilAnswers(child: Child, url: string): Promise<void>;
    export function until(what: () => string, condition: () => unknown, withinMs?: number): Promise<void>;
}

declare module "*/build.mjs" {
    export const demoFile: string;
    export function demoText(): Promise<string>;
    export function bundle(format: "esm" | "cjs"): Promise<string>;
}
