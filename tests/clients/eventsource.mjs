// The EventSource of the npm package `eventsource`, for tests that stand in other folders.
export { EventSource } from "eventsource";
