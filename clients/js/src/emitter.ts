/** Events with the types of what they carry. A handler that throws is reported, and takes nothing from the others. */
export class Emitter<Events> {
    #handlers = new Map<keyof Events, Set<(event: never) => void>>();

    /** Calls `handler` on each event of this name, in the order of registration; the answer takes it away again. */
    on<Name extends keyof Events>(name: Name, handler: (event: Events[Name]) => void): () => void {
        const handlers = this.#handlers.get(name) ?? new Set();
        this.#handlers.set(name, handlers.add(handler));
        return () => void handlers.delete(handler);
    }

    /** @internal */
    emit<Name extends keyof Events>(name: Name, event: Events[Name]): void {
        for (const handler of [...(this.#handlers.get(name) ?? [])]) {
            try {
                (handler as (event: Events[Name]) => void)(event);
            } catch (error) {
                console.error(error);
            }
        }
    }
}
