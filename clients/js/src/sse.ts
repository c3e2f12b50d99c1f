/** One event of a stream of Server-Sent Events. */
export interface StreamEvent {
    readonly event: string;
    readonly data: string;
    readonly id: string | undefined;
    readonly retry: number | undefined;
}

/** A single event longer than this ends the stream: characters. */
export const LONGEST = 4 << 20;

/**
 * Text in pieces -> events, as the standard reads them, but that one with nothing but `id` or `retry` is told too. Throws a
 * RangeError at an event over `LONGEST`.
 */
export class Parser {
    #rest = "";
    #lines: string[] = [];
    #size = 0;

    push(text: string): StreamEvent[] {
        const events: StreamEvent[] = [];
        // A carriage return at the end may be half of a line's end.
        const all = this.#rest + text;
        const lines = all.split(/\r\n|\n|\r(?!$)/);
        this.#rest = lines.pop() ?? "";
        for (const line of lines) {
            if (line === "") {
                const event = read(this.#lines);
                if (event) events.push(event);
                this.#lines = [];
                this.#size = 0;
            } else if (line[0] !== ":") {
                this.#size += line.length;
                this.#lines.push(line);
            }
        }
        if (this.#size + this.#rest.length > LONGEST) throw new RangeError("an event is too long");
        return events;
    }
}

function read(lines: readonly string[]): StreamEvent | undefined {
    const fields = new Map<string, string>();
    for (const line of lines) {
        const [, name = "", value = ""] = /^\uFEFF?([^:]*)(?:: ?(.*))?$/s.exec(line) ?? [];
        const before = fields.get(name);
        fields.set(name, name === "data" && before !== undefined ? `${before}\n${value}` : value);
    }
    if (fields.size === 0) return undefined;
    const retry = Number(fields.get("retry") || NaN);
    return { event: fields.get("event") ?? "", data: fields.get("data") ?? "", id: fields.get("id"), retry: retry >= 0 ? retry : undefined };
}
