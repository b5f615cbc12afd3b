// Asks before something is done that many would notice.

import { byId, write } from "./words.js";

/** Whether the person said yes. The safe answer has the focus. */
export function confirmed(title, text, yes) {
  const dialog = byId("confirm");
  write(byId("confirm-title"), title);
  write(byId("confirm-text"), text);
  write(byId("confirm-yes"), yes);
  return new Promise((resolve) => {
    const answer = (value) => () => {
      dialog.returnValue = value;
      dialog.close();
    };
    byId("confirm-yes").onclick = answer("yes");
    byId("confirm-no").onclick = answer("no");
    dialog.returnValue = "";
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
    dialog.showModal();
    byId("confirm-no").focus();
  });
}
