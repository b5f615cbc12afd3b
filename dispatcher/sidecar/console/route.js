// The address of a view stands after the # of the page's: #/dead?error=... Reload, bookmark and sharing keep it, below any path.

const changed = new Set();

/** { name, id, query }: which view is asked for. What does not begin with #/ is a place on the page, not a view. */
export function route() {
  const [path, query = ""] = (location.hash.startsWith("#/") ? location.hash.slice(2) : "").split(/\?(.*)/s);
  const [name, id = ""] = path.split("/");
  return { name: name || "now", id: decoded(id), query: Object.fromEntries(new URLSearchParams(query)) };
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // somebody typed a lone %
  }
}

/** The address of a view, for a link. Empty values are left out, but for an error: "" is one that was not noted. */
export function to(name, query = {}, id) {
  const given = Object.entries(query).filter(([key, value]) => value || (key === "error" && value === ""));
  const path = name === "now" ? "" : name + (id === undefined ? "" : `/${encodeURIComponent(id)}`);
  return `#/${path}${given.length ? `?${new URLSearchParams(given)}` : ""}`;
}

/** Go there; the step back leads here. */
export function go(name, query, id) {
  const address = to(name, query, id);
  if (location.hash === address) for (const call of changed) call();
  else location.hash = address;
}

export function onRoute(call) {
  changed.add(call);
}

window.addEventListener("hashchange", () => {
  if (location.hash === "" || location.hash.startsWith("#/")) for (const call of changed) call();
});
