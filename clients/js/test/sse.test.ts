import { expect, test } from "vitest";
import { LONGEST, Parser } from "../src/sse.js";

const text = '\uFEFFretry: 1500\nid: e:1\n\n: a comment\r\n\r\ndata: {"a":1}\rid:e:2\r\r\nevent: gap\ndata: one\ndata:two\ndata:  three\n\nid\n\ndata: left out, for it never ends';
const events = [
    { event: "", data: "", id: "e:1", retry: 1500 },
    { event: "", data: '{"a":1}', id: "e:2", retry: undefined },
    { event: "gap", data: "one\ntwo\n three", id: undefined, retry: undefined },
    { event: "", data: "", id: "", retry: undefined },
];

test("events are the same wherever the text is cut", () => {
    for (let at = 0; at <= text.length; at++) {
        const parser = new Parser();
        expect([...parser.push(text.slice(0, at)), ...parser.push(text.slice(at))], `cut at ${at}`).toEqual(events);
    }
    const parser = new Parser();
    expect([...text].flatMap((character) => parser.push(character))).toEqual(events);
});

test("an event that never ends is not kept", () => {
    const parser = new Parser();
    parser.push("data: ");
    expect(() => {
        for (let i = 0; i < 5; i++) parser.push("x".repeat(LONGEST / 4));
    }).toThrow(RangeError);
    const lines = new Parser();
    expect(() => {
        for (let i = 0; i < 5; i++) lines.push(`data: ${"x".repeat(LONGEST / 4)}\n`);
    }).toThrow(RangeError);
});
