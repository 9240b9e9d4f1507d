/** Types of the JavaScript client of roomwire.v1. Times are milliseconds unless a name says otherwise. */

/** An application's events: the type of `data` by event name. */
export type EventMap = Record<string, unknown>;

/** A map's keys and nothing else, so that an interface without an index signature fits too. */
type Shape<T> = { [K in keyof T]: unknown };

/** In place of a map of what a client sends: nothing is said of it. No event has an empty name. */
export interface Undeclared {
  readonly "": never;
}

interface RoomType {
  server: object;
  client: object;
  state: unknown;
}

/** Rooms by their names, as `roomwire types` writes them: templates of names, the most specific first. */
export type RoomTypes = readonly (readonly [template: string, types: RoomType])[];

/** A message's data, and its ack's, in a map of what a client sends. */
type Given<Message> = Message extends { data: infer Data } ? Data : unknown;
type Acked<Message> = Message extends { ack: infer Ack } ? Ack : unknown;
type Rest<Message, Options> = null extends Given<Message>
  ? [data?: Given<Message>, options?: Options]
  : [data: Given<Message>, options?: Options];

/** `send`: of a map of messages with their data and acks, or of anything. */
export type Send<Sent, Options> = [Sent] extends [Undeclared]
  ? <Reply = unknown>(event: string, data?: unknown, options?: Options) => Promise<Reply>
  : <Name extends keyof Sent & string>(event: Name, ...rest: Rest<Sent[Name], Options>) => Promise<Acked<Sent[Name]>>;

/** `notify`, likewise. */
export type Notify<Sent, Options> = [Sent] extends [Undeclared]
  ? (event: string, data?: unknown, options?: Options) => boolean
  : <Name extends keyof Sent & string>(event: Name, ...rest: Rest<Sent[Name], Options>) => boolean;

type Segments<Text extends string> = Text extends `${string}:${infer More}` ? [0, ...Segments<More>] : [0];

/** The room of a name: the first whose template fits and has as many segments. What stands in `${}` has no colon. */
export type RoomOf<Events extends Shape<Events>, Sent, Rooms, Name extends string> = Rooms extends readonly [
  readonly [infer Template extends string, infer Types extends RoomType],
  ...infer More,
]
  ? Name extends Template
    ? Segments<Name> extends Segments<Template>
      ? Room<Types["server"], Types["client"], Types["state"]>
      : RoomOf<Events, Sent, More, Name>
    : RoomOf<Events, Sent, More, Name>
  : Room<Events, Sent>;

/** What a WebSocket class must offer: the browser's, or that of npm's `ws`. */
export interface WebSocketLike {
  binaryType: string;
  readonly readyState: number;
  onmessage: ((event: any) => void) | null;
  onclose: ((event: any) => void) | null;
  onerror: ((event: any) => void) | null;
  send(data: string | Uint8Array<ArrayBuffer>): void;
  close(code?: number, reason?: string): void;
}

export type WebSocketClass = new (url: string, protocols: string[]) => WebSocketLike;

/** Time and chance, to be replaced in tests. */
export interface Runtime {
  /** Milliseconds, of a clock that goes on while the device sleeps. */
  now(): number;
  /** At least 0, less than 1. */
  random(): number;
  setTimeout(callback: () => void, delay: number): unknown;
  clearTimeout(timer: any): void;
}

export interface Options {
  /**
   * A JWT, or what gives one: called before every attempt. A rejection counts as a passing failure, unless it is a
   * `RoomwireError` with the code `unauthorized`: then the client gives up.
   */
  token?: string | (() => string | null | undefined | Promise<string | null | undefined>);
  /** How the token travels: in the query string (the default), or as the subprotocol `bearer.TOKEN`. */
  tokenVia?: "query" | "subprotocol";
  /** Rooms to enter as soon as there is a link. */
  rooms?: readonly string[];
  /** Ask for a "room.state" of every room that the server puts this client in: the first load of a page. */
  state?: boolean;
  /** Bounds of the messages that have no reply yet: 100 of them, 524,288 bytes. */
  queue?: { messages?: number; bytes?: number };
  /** What a handler of yours threw, a token callback's rejection, or a message that cannot be read. */
  onerror?: (error: unknown, event: ClientEvent | null) => void;
  /** A client id of your own, `[A-Za-z0-9_-]{8,64}`. Never one that two tabs could share. */
  client?: string;
  /** The WebSocket class where there is no global one: that of npm's `ws`. */
  WebSocket?: WebSocketClass;
  runtime?: Partial<Runtime>;
  /** What fires "online" and "offline"; the browser's window by default. */
  window?: Pick<EventTarget, "addEventListener" | "removeEventListener">;
}

/** Codes of the server (section 4 of the protocol), or the application's own, or one of these of the client. */
export type ClientErrorCode =
  | "invalid"
  | "closed"
  | "closed_by_server"
  | "bad_request"
  | "unauthorized"
  | "forbidden"
  | "not_found"
  | "upgrade_required"
  | "disconnected"
  | "left"
  | "queue_full"
  | "too_big"
  | "unknown_outcome"
  | "user_changed";

export class RoomwireError extends Error {
  constructor(code: ClientErrorCode | (string & {}), message: string, details?: unknown);
  readonly code: ClientErrorCode | (string & {});
  readonly details: unknown;
}

export type State = "connecting" | "open" | "waiting" | "closed";

export interface StateChange {
  state: State;
  previous?: State;
  /** "waiting": until the next attempt. */
  delay?: number;
  /** "waiting": the close code of the lost link. */
  code?: number;
  reason?: string;
  /** "closed": why the client gave up; absent after `close()`. */
  error?: RoomwireError;
}

/**
 * What became of a room over a lost link. `recovered: true`: nothing was lost, and `replayed` events were handed over
 * before this one. `false`: a "room.state" follows, or the room is left; `reason` is one of section 5 of the protocol,
 * or `no_cursor` where the client had no position to resume from.
 */
export type Recovery = { recovered: true; replayed: number } | { recovered: false; reason: string };

export interface Member<Info = unknown> {
  user: string;
  info: Info;
}

/** Events of the protocol and of the client itself; their names are reserved, so none is an application's. */
export interface ProtocolEvents {
  "session.statechange": StateChange;
  "session.welcome": {
    session: string;
    client: string;
    user: string;
    /** Seconds. */
    heartbeat: { interval: number; timeout: number };
    limits: { max_message_size: number; max_event_size: number; idempotency_window: number };
    rooms: Record<string, { position?: string; recovered: boolean | null; reason?: string }>;
  };
  "session.closing": { code: number; reason: string; reconnect: boolean; retry_after: number };
  "room.recovered": Recovery;
  "room.state": { reason: string; state: unknown };
  "room.joined": { position?: string; recovered: boolean | null };
  "room.removed": { reason: string };
  "presence.state": { members: Member[] };
  "presence.join": Member;
  "presence.leave": Member;
  /** An error that answers no message with an id. */
  error: { code: string; message: string; details?: unknown };
}

/** The whole event, of which `data` is also the handler's first argument. */
export interface ClientEvent<Data = unknown> {
  readonly event: string;
  readonly data: Data;
  readonly room?: string;
  /** The event id, `EPOCH:OFFSET`; absent on what is ephemeral. */
  readonly id?: string;
  /** Who published it, where the server says it. */
  readonly user?: string;
}

export type Handler<Data> = (data: Data, event: ClientEvent<Data>) => unknown;

/** The type of an event's `data`: the protocol's, else the application's, else unknown. */
export type DataOf<Events, Name extends string, State = unknown> = Name extends "room.state"
  ? { reason: string; state: State | null }
  : Name extends keyof ProtocolEvents
    ? ProtocolEvents[Name]
    : Name extends keyof Events
      ? Events[Name]
      : unknown;

type EventName<Events> = (keyof Events & string) | keyof ProtocolEvents | "*";

export interface JoinResult {
  /** Null where the room keeps no history, or it cannot be read now. */
  position: string | null;
  recovered: boolean | null;
  reason?: string;
}

export interface Room<Events extends Shape<Events> = EventMap, Sent = Undeclared, State = unknown> {
  readonly name: string;
  /** Whether the server says that this client is in the room, over the link that is open now. */
  readonly joined: boolean;
  /** The position up to which all events were handed over, `EPOCH:OFFSET`. */
  readonly position: string | null;
  /** Who is in the room, cluster-wide: user id to info, kept up to date. */
  readonly members: ReadonlyMap<string, unknown>;
  /** Handlers run in the order of events; add them before `join()`. Returns a function that ends it. */
  on<Name extends EventName<Events>>(event: Name, handler: Handler<DataOf<Events, Name, State>>): () => void;
  /**
   * Enter the room, now or as soon as there is a link; a passing failure is tried again. With `state` a "room.state"
   * comes as well, to who is in the room already too.
   *
   * @throws RoomwireError `forbidden`, `too_many_rooms`, `left`, `closed`
   */
  join(options?: { state?: boolean }): Promise<JoinResult>;
  leave(): Promise<void>;
  readonly send: Send<Sent, { id?: string }>;
  readonly notify: Notify<Sent, never>;
  /** @throws RoomwireError `disconnected`, `not_joined` */
  fetchMembers(): Promise<Member[]>;
}

export interface Client<
  Events extends Shape<Events> = EventMap,
  Sent = Undeclared,
  Rooms extends RoomTypes = readonly [],
> {
  /** The client id: kept over reconnects, never stored. */
  readonly id: string;
  readonly state: State;
  readonly error: RoomwireError | null;
  readonly user: string | null;
  readonly session: string | null;
  readonly rooms: ReadonlyMap<string, Room<Events, Sent>>;
  room<Name extends string>(name: Name): RoomOf<Events, Sent, Rooms, Name>;
  on<Name extends EventName<Events>>(event: Name, handler: Handler<DataOf<Events, Name>>): () => void;
  whenOpen(): Promise<void>;
  /**
   * Send a message and wait for its ack, whose `data` it resolves with. Bytes go in a binary frame, all else as JSON.
   *
   * Without a link it waits; where the link breaks before the reply it is sent again with the same id. An error of the
   * server with the code `unavailable`, `rate_limited` or `internal` may be tried again with the same `id`.
   *
   * @throws RoomwireError the server's code, or `queue_full`, `too_big`, `unknown_outcome` (sent, and nobody can say
   *   whether it took effect), `user_changed`, `invalid`, `closed`
   */
  readonly send: Send<Sent, { room?: string; id?: string }>;
  /**
   * Send what nobody answers and nobody misses, a typing indicator say. False, and nothing sent, without a link.
   *
   * @throws RoomwireError `invalid`, `too_big`
   */
  readonly notify: Notify<Sent, { room?: string }>;
  /** @throws RoomwireError `disconnected` */
  fetchRooms(): Promise<Record<string, { position?: string }>>;
  /** Make the next attempt now, unless the server asked for the wait. */
  retryNow(): void;
  /** For demonstrations: lose the link, and find none for `duration` milliseconds. */
  simulateOutage(duration: number): void;
  /** Close for good: what waits for a reply is rejected. */
  close(): void;
}

export const Client: new <
  Events extends Shape<Events> = EventMap,
  Sent = Undeclared,
  Rooms extends RoomTypes = readonly [],
>(
  url: string | URL,
  options: Options,
) => Client<Events, Sent, Rooms>;

/**
 * Open a client. It connects at once, and again after every passing failure, until `close()` or a final refusal.
 *
 * The types of `roomwire types` say what comes and what can be sent: `connect<ServerEvents, ClientEvents, Rooms>(url)`.
 *
 * @param url `ws:`, `wss:`, `http:` or `https:`; in a browser also relative to the page.
 */
export function connect<
  Events extends Shape<Events> = EventMap,
  Sent = Undeclared,
  Rooms extends RoomTypes = readonly [],
>(url: string | URL, options?: Options): Client<Events, Sent, Rooms>;
