// The WebSocket: connects again by itself and goes on after the last entry that came, so that nothing is missed.

const RELOAD = 4002; // the gateway missed entries: the id is worthless
const SILENCE_MS = 45_000; // the gateway says something every 15 s
const PAUSES_MS = [200, 500, 1_000, 2_000, 5_000];

export class Live {
  #after = ""; // the id of the last entry that came
  #attempts = 0;
  #socket;
  #silence;

  // `heard` gets each frame, `changed` "on", "off" and, after a start, "wait".
  constructor(room, heard, changed) {
    this.room = room;
    this.heard = heard;
    this.changed = changed;
    addEventListener("online", () => this.#connect());
    this.#connect();
  }

  // Forget the place: what comes next is what the database has.
  reload() {
    this.#after = "";
    this.#connect();
  }

  #connect() {
    clearTimeout(this.retry);
    if (this.#socket) {
      this.#socket.onmessage = this.#socket.onclose = null; // what it still sends, the next one sends too
      this.#socket.close();
    }
    const address = new URL(`rooms/${encodeURIComponent(this.room)}/live`, location.href);
    address.protocol = address.protocol.replace("http", "ws");
    if (this.#after) address.searchParams.set("after", this.#after);
    this.#socket = new WebSocket(address);
    this.#socket.onmessage = ({ data }) => this.#take(JSON.parse(data));
    this.#socket.onclose = ({ code }) => this.#again(code);
    this.#listen();
  }

  #take(frame) {
    this.#listen();
    if (frame.id) this.#after = frame.id;
    if (frame.type === "state" || frame.type === "resumed") {
      this.#attempts = 0;
      this.changed("on");
    }
    this.heard(frame);
  }

  // A connection that died without a word says nothing for ever.
  #listen() {
    clearTimeout(this.#silence);
    this.#silence = setTimeout(() => this.#connect(), SILENCE_MS);
  }

  #again(code) {
    clearTimeout(this.#silence);
    if (code === RELOAD) this.#after = "";
    this.changed("off");
    const pause = PAUSES_MS[Math.min(this.#attempts++, PAUSES_MS.length - 1)];
    this.retry = setTimeout(() => this.#connect(), pause * (0.5 + Math.random())); // not all at the same moment
  }
}
