// Posts messages one after the other, again and again until the gateway has taken each: its key makes it one message.

const PAUSE_MS = 500;

function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

export class Sender {
  unsent = []; // oldest first
  #taken = new Set(); // keys of those that the gateway has, and that have not come back yet
  #busy = false;

  // `changed` is called when `unsent` has changed; `refused` gets a message that is put aside, and why.
  constructor(room, author, changed, refused) {
    Object.assign(this, { room, author, changed, refused });
  }

  send(body) {
    this.unsent.push({ key: newKey(), author: this.author, body });
    this.changed();
    this.#work();
  }

  // It came back as a message: it is there, even if the answer was lost.
  arrived(key) {
    const before = this.unsent.length;
    this.unsent = this.unsent.filter((message) => message.key !== key);
    this.#taken.delete(key);
    if (this.unsent.length < before) this.changed();
  }

  async #work() {
    if (this.#busy) return;
    this.#busy = true;
    let next;
    while ((next = this.unsent.find((message) => !this.#taken.has(message.key)))) {
      const problem = await this.#post(next);
      if (problem === null) this.#taken.add(next.key);
      else if (problem) {
        this.arrived(next.key);
        this.refused(next, problem);
      } else await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    }
    this.#busy = false;
  }

  // null: taken. "": try again. Anything else: why it never will be.
  async #post(message) {
    try {
      const answer = await fetch(`rooms/${encodeURIComponent(this.room)}/messages`, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify(message),
        signal: AbortSignal.timeout(15_000),
      });
      if (answer.ok) return null;
      return answer.status >= 500 || answer.status === 429 ? "" : await answer.text();
    } catch {
      return "";
    }
  }
}
