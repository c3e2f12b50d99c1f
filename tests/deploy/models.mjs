// node models.mjs < DOCUMENTS: holds a JSON list of Kubernetes objects against the types of kubernetes-models, those of
// Gateway API, KEDA and the Prometheus Operator among them; prints a list of [index, what is wrong].
//
// The types let unknown fields pass. But a compiled validator reads every field that it knows, so the objects are handed
// to it in a proxy: a field that nobody has read is one that nobody knows.
import { text } from "node:stream/consumers";

const packages = {
    "gateway.networking.k8s.io": "@kubernetes-models/gateway-api",
    "keda.sh": "@kubernetes-models/keda",
    "monitoring.coreos.com": "@kubernetes-models/prometheus-operator",
};
// Free-form where the type says nothing of what is inside, so that nobody reads it.
const OPEN = [/^\/metadata\/(labels|annotations)\//];

async function modelOf({ apiVersion, kind }) {
    const types = await import(`${packages[apiVersion.split("/")[0]] ?? "kubernetes-models"}/${apiVersion}`);
    if (!types[kind]) throw new Error(`${apiVersion} has no ${kind}`);
    return types[kind];
}

// Calls `seen` with the path of everything that is read.
function watched(value, path, seen) {
    if (typeof value !== "object" || value === null) return value;
    const inside = new Map();
    return new Proxy(value, {
        get(target, key) {
            if (typeof key === "symbol" || !Object.hasOwn(target, key)) return target[key];
            seen.add(`${path}/${key}`);
            if (!inside.has(key)) inside.set(key, watched(target[key], `${path}/${key}`, seen));
            return inside.get(key);
        },
    });
}

function* unread(value, path, seen) {
    if (typeof value !== "object" || value === null) return;
    for (const [key, child] of Object.entries(value)) {
        const at = `${path}/${key}`;
        if (OPEN.some((open) => open.test(at))) continue;
        if (!seen.has(at)) yield at;
        else yield* unread(child, at, seen);
    }
}

const found = [];
for (const [index, document] of JSON.parse(await text(process.stdin)).entries()) {
    try {
        const Model = await modelOf(document);
        const seen = new Set();
        // Not `new Model(…)`, whose constructor copies, that is reads, everything.
        Model.prototype.validate.call(watched(document, "", seen));
        for (const path of unread(document, "", seen)) found.push([index, `${path} is unknown`]);
    } catch (error) {
        found.push([index, error.message]);
    }
}
console.log(JSON.stringify(found));
