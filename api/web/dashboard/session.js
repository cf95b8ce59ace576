// Whose page this is: the token from the address or from this tab's memory, and what it says of its bearer.

const KEY = "berth.token";

/** Take `#token=...` out of the address, also out of the tab's history; "" without one. It is not remembered yet. */
export function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given === null) return "";
  history.replaceState(null, "", `${location.pathname}${location.search}#/`);
  return given.trim();
}

/** Whether somebody is signed in here already, and `given` is not of the same user. */
export function ofAnother(given) {
  const present = token();
  if (!present || present === given) return false;
  const user = claims(given).sub;
  return !user || user !== claims(present).sub;
}

export const token = () => sessionStorage.getItem(KEY);
export const remember = (value) => sessionStorage.setItem(KEY, value);
export const forget = () => sessionStorage.removeItem(KEY);

/** What a token says, unverified: only good for what to show first. The server decides what is allowed. */
export function claims(value) {
  try {
    const part = value.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    const bytes = Uint8Array.from(atob(part), (letter) => letter.charCodeAt(0));
    const said = JSON.parse(new TextDecoder().decode(bytes));
    return typeof said === "object" && said !== null ? said : {};
  } catch {
    return {};
  }
}
