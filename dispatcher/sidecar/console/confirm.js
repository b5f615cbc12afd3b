// Asks before something is done that many would notice, and for what is kept with it: a reason, a name.

import { byId, write } from "./words.js";

const NAME = "dispatcher-who"; // kept in this browser, so that it is typed once

/** Resolves to { reason, by } when the person said yes, else to null. `reason`: "needed", "wanted" or absent. */
export function confirmed({ title, text, yes, reason }) {
  const dialog = byId("confirm");
  const why = byId("confirm-reason");
  const who = byId("confirm-by");
  write(byId("confirm-title"), title);
  write(byId("confirm-text"), text);
  write(byId("confirm-yes"), yes);
  byId("confirm-reason-row").hidden = !reason;
  write(byId("confirm-reason-name"), reason === "needed" ? "Reason" : "Reason (may be empty)");
  why.required = reason === "needed";
  why.value = "";
  who.value = localStorage.getItem(NAME) ?? "";
  return new Promise((resolve) => {
    const form = byId("confirm-form");
    form.onsubmit = (event) => {
      event.preventDefault();
      if (why.required && !why.value.trim()) {
        why.value = "";
        why.reportValidity();
        return;
      }
      if (who.value.trim()) localStorage.setItem(NAME, who.value.trim());
      else localStorage.removeItem(NAME);
      dialog.close("yes");
    };
    byId("confirm-no").onclick = () => dialog.close("no");
    dialog.returnValue = "";
    dialog.addEventListener("close", () => resolve(dialog.returnValue !== "yes" ? null
      : { ...(reason && why.value.trim() ? { reason: why.value.trim() } : {}), ...(who.value.trim() ? { by: who.value.trim() } : {}) }),
    { once: true });
    dialog.showModal();
    (reason === "needed" ? why : byId("confirm-no")).focus(); // else the safe answer has the focus
  });
}
