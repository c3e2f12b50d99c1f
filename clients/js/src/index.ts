export { Client, type ClientEvents, type ClientOptions, type State } from "./client.js";
export { SkywaveError } from "./error.js";
export type { PublishOptions } from "./outbox.js";
export { type Gap, type SubscribeOptions, Subscription, type SubscriptionEvents } from "./subscription.js";
export type { WebSocketClass, WebSocketLike } from "./websocket.js";
export type { HistoryPage, Member, MemberPage, Position, Publication, Published } from "./wire.js";
