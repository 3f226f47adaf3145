// The first page: watches a tenant's events through the public API.
//
// A native EventSource reconnects with the same URL and so with a spent stream token, and stops for good
// at any status but 200. After every error this page therefore closes it and opens a new one, with a new
// stream token and the cursor of the last event that was shown.
"use strict";

(() => {
  const STORED = "tidings.access_token";
  const BUILT_IN = ["device_status", "alert_fired", "alert_resolved", "config_push", "firmware_progress", "metric_update"];
  const MOST_ROWS = 300;
  const LONGEST_WAIT = 30000;
  const LOOK_BACK = 60000;
  // Where the API is mounted: at the root or, beside an existing front end, below /api.
  const MOUNTS = ["", "/api"];

  const element = (id) => document.getElementById(id);
  const page = {
    token: null,
    claims: {},
    mount: 0,
    source: null,
    // Of an attempt that something newer has replaced, nothing counts any more.
    attempt: 0,
    failures: 0,
    timer: 0,
    lastEventId: "",
    retry: null,
    seen: 0,
    tenants: new Set(),
    names: new Map(),
    queue: [],
    paused: false,
    drawing: false,
  };

  // --- Access token -------------------------------------------------------------------------------

  function tokenFromFragment() {
    const found = new URLSearchParams(location.hash.slice(1)).get("token");
    if (found) {
      // Neither the address bar nor the history keeps it.
      history.replaceState(null, "", location.pathname + location.search);
    }
    return found;
  }

  // What the token says of itself, for the page's own convenience; the server decides.
  function claimsOf(token) {
    try {
      const part = token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/");
      const bytes = Uint8Array.from(atob(part), (letter) => letter.charCodeAt(0));
      return JSON.parse(new TextDecoder().decode(bytes)) || {};
    } catch {
      return {};
    }
  }

  function useToken(token) {
    page.token = token;
    page.claims = claimsOf(token);
    // sessionStorage is this tab's alone and ends with it; a reload keeps watching.
    sessionStorage.setItem(STORED, token);
    element("token-form").hidden = true;
    element("watch").hidden = false;
    element("forget").hidden = false;
    page.tenants.clear();
    fillTenants();
    writeCommands();
    restart();
  }

  function forgetToken(message) {
    stop();
    page.token = null;
    page.claims = {};
    sessionStorage.removeItem(STORED);
    element("token").value = "";
    element("token-form").hidden = false;
    element("watch").hidden = true;
    element("forget").hidden = true;
    element("token-error").hidden = !message;
    element("token-error").textContent = message || "";
    setState("idle", "No access token");
    writeCommands();
  }

  // --- The stream ---------------------------------------------------------------------------------

  const base = () => location.origin + MOUNTS[page.mount];

  function stop() {
    page.attempt += 1;
    clearTimeout(page.timer);
    if (page.source) {
      page.source.close();
      page.source = null;
    }
  }

  // Another view: nothing of the old one is resumed.
  function restart() {
    stop();
    page.lastEventId = "";
    page.failures = 0;
    page.retry = null;
    clearEvents();
    element("stale").hidden = true;
    open();
  }

  async function open() {
    const attempt = ++page.attempt;
    setState("opening", "Opening a stream …");
    let granted;
    try {
      granted = await mint(attempt);
    } catch (error) {
      if (attempt === page.attempt) later(`The server can't be reached (${error.message})`);
      return;
    }
    if (!granted || attempt !== page.attempt) return;
    const source = new EventSource(streamUrl(granted));
    page.source = source;
    source.onopen = () => setState("live", "Live");
    source.onerror = () => {
      source.close();
      if (source === page.source) {
        page.source = null;
        later("The stream has ended");
      }
    };
    const names = new Set([...BUILT_IN, ...wantedTypes(), "removed"]);
    for (const name of names) listen(source, name, showEvent);
    listen(source, "cursor", () => {});
    listen(source, "gap", showGap);
    listen(source, "stale", showStale);
    listen(source, "fresh", showFresh);
    listen(source, "closing", showClosing);
  }

  function listen(source, name, show) {
    source.addEventListener(name, (event) => {
      if (source !== page.source) return;
      page.failures = 0;
      if (event.lastEventId) {
        page.lastEventId = event.lastEventId;
        element("cursor").textContent = event.lastEventId;
      }
      show(name, parse(event.data), event);
    });
  }

  function parse(text) {
    try {
      const value = JSON.parse(text);
      return value && typeof value === "object" ? value : {};
    } catch {
      return {};
    }
  }

  // A stream token, or nothing where the answer was dealt with. Network failures are thrown.
  async function mint(attempt) {
    const response = await fetch(base() + "/auth/sse-token", {
      method: "POST",
      headers: { Authorization: "Bearer " + page.token },
      cache: "no-store",
      credentials: "omit",
    });
    if (attempt !== page.attempt) return null;
    if (response.ok) return (await response.json()).token;
    if (response.status === 404 && page.mount + 1 < MOUNTS.length) {
      page.mount += 1;
      writeCommands();
      return mint(attempt);
    }
    const problem = await response.json().catch(() => ({}));
    const said = problem.detail || `status ${response.status}`;
    if (attempt !== page.attempt) return null;
    if (response.status === 401 || response.status === 403) {
      forgetToken(`The token was not accepted: ${said}`);
    } else if (response.status === 429 || response.status >= 500) {
      later(`The server is busy: ${said}`, Number(response.headers.get("Retry-After")) * 1000);
    } else {
      setState("stopped", said);
    }
    return null;
  }

  function streamUrl(streamToken) {
    const tenant = element("tenant").value;
    const query = new URLSearchParams({ token: streamToken });
    if (page.lastEventId) query.set("last_event_id", page.lastEventId);
    // A page that was just opened shows what happened a moment ago, not an empty list.
    else query.set("since", new Date(Date.now() - LOOK_BACK).toISOString());
    const types = wantedTypes();
    if (types.length) query.set("types", types.join(","));
    const device = element("device").value.trim();
    if (device) query.set("device_id", device);
    if (tenant) query.set("scope", "tenant");
    const path = tenant ? `/tenants/${encodeURIComponent(tenant)}/events/stream` : "/events/stream";
    return `${base()}${path}?${query}`;
  }

  // Tries again: what the server asked for, else doubling steps with full jitter, so that pages which lost
  // the same server do not come back together.
  function later(why, least) {
    const step = Math.min(LONGEST_WAIT, 1000 * 2 ** Math.min(page.failures, 10));
    page.failures += 1;
    const wait = page.retry !== null ? page.retry : (least || 0) + Math.random() * step;
    page.retry = null;
    setState("down", `${why}; trying again in ${Math.ceil(wait / 1000)} s`);
    clearTimeout(page.timer);
    page.timer = setTimeout(open, wait);
  }

  function setState(state, text) {
    element("state").dataset.state = state;
    element("state-text").textContent = text;
  }

  // --- What comes ---------------------------------------------------------------------------------

  function showEvent(type, data, event) {
    page.seen += 1;
    if (data.tenant_id && !page.claims.tenant_id && !page.tenants.has(data.tenant_id)) {
      page.tenants.add(data.tenant_id);
      fillTenants();
    }
    if (data.device_id && data.name) page.names.set(data.device_id, data.name);
    enqueue({ type, data, id: event.lastEventId, at: new Date() });
  }

  function showGap(_name, data) {
    const reasons = {
      expired: "what lies before was removed by retention",
      unknown_epoch: "the log is another one than before",
      ahead_of_log: "the cursor lies behind the end of the log",
      malformed: "the cursor was not understood",
    };
    note("bad", `Gap: events after ${data.requested || "the cursor"} can't be given, ${reasons[data.reason] || data.reason}. It goes on after ${data.resumed_at}.`);
  }

  function showStale(_name, data) {
    const since = data.since ? ` since ${clock(new Date(data.since))}` : "";
    element("stale").textContent = `The server can't read or write its log${since}${data.reason ? `: ${data.reason}` : ""}. Nothing newer is known.`;
    element("stale").hidden = false;
    setState("stale", "Open, but stale");
  }

  function showFresh() {
    element("stale").hidden = true;
    setState("live", "Live");
  }

  function showClosing(_name, data) {
    if (Number.isFinite(data.retry)) page.retry = data.retry;
    note("warn", `The server closes this stream (${data.reason || "no reason given"}).`);
  }

  const note = (tone, text) => enqueue({ note: text, tone, at: new Date() });

  // Events are drawn with the next frame, many at once in a burst. What would not fit is not kept.
  function enqueue(item) {
    page.queue.push(item);
    if (page.queue.length > MOST_ROWS) page.queue.splice(0, page.queue.length - MOST_ROWS);
    schedule();
  }

  function schedule() {
    if (page.drawing) return;
    page.drawing = true;
    requestAnimationFrame(draw);
  }

  function draw() {
    page.drawing = false;
    element("count").textContent = page.seen.toLocaleString();
    element("waiting").textContent = page.paused && page.queue.length ? `, ${page.queue.length} waiting` : "";
    if (page.paused) return;
    const list = element("events");
    const rows = document.createDocumentFragment();
    for (const item of page.queue.reverse()) rows.append(item.note ? noteRow(item) : eventRow(item));
    page.queue = [];
    list.prepend(rows);
    while (list.childElementCount > MOST_ROWS) list.lastElementChild.remove();
    element("empty").hidden = list.childElementCount > 0;
  }

  function clearEvents() {
    page.queue = [];
    page.seen = 0;
    element("events").replaceChildren();
    element("empty").hidden = false;
    element("count").textContent = "0";
    element("waiting").textContent = "";
    element("cursor").textContent = "–";
  }

  const row = (name) => element(name).content.firstElementChild.cloneNode(true);

  function noteRow(item) {
    const li = row("note");
    li.classList.add(`tone-${item.tone}`);
    li.querySelector("time").textContent = clock(item.at);
    li.querySelector(".text").textContent = item.note;
    return li;
  }

  function eventRow({ type, data, id, at }) {
    const li = row("row");
    li.classList.add(`tone-${tone(type, data)}`);
    const stamp = data.last_seen || data.collected_at || data.fired_at || data.resolved_at || data.timestamp;
    const time = stamp && !Number.isNaN(Date.parse(stamp)) ? new Date(stamp) : at;
    li.querySelector("time").textContent = clock(time);
    li.querySelector("time").dateTime = time.toISOString();
    li.querySelector(".type").textContent = type;
    li.querySelector(".device").textContent = page.names.get(data.device_id) || data.device_id || "–";
    li.querySelector(".summary").textContent = summary(type, data);
    const details = li.querySelector("details");
    // Most rows are never opened.
    details.addEventListener("toggle", () => {
      li.querySelector(".origin").textContent = `id ${id} · tenant ${data.tenant_id || "–"} · device ${data.device_id || "–"}`;
      li.querySelector("pre").textContent = JSON.stringify(data, null, 2);
    }, { once: true });
    return li;
  }

  const clock = (date) => date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });

  function tone(type, data) {
    switch (type) {
      case "device_status": return data.status === "offline" ? "bad" : "good";
      case "alert_fired": return data.severity === "critical" ? "bad" : "warn";
      case "alert_resolved": return "good";
      case "config_push":
      case "firmware_progress": return data.stage === "failed" || data.stage === "reverted" ? "bad" : "info";
      default: return "plain";
    }
  }

  function summary(type, data) {
    const parts = [];
    const add = (value, text) => {
      if (value !== undefined && value !== null && value !== "") parts.push(text || String(value));
    };
    switch (type) {
      case "device_status":
        add(data.status);
        add(data.site);
        add(data.cpu_load, `CPU ${data.cpu_load} %`);
        add(data.uptime, `up ${data.uptime}`);
        break;
      case "alert_fired":
      case "alert_resolved":
        add(data.severity);
        add(data.message);
        break;
      case "config_push":
      case "firmware_progress":
        add(data.stage && data.stage.replace("_", " "));
        add(data.message);
        break;
      case "metric_update":
        metric(data, add);
        break;
      case "removed":
        add(data.subject, `removed: ${data.subject}`);
        break;
    }
    return parts.join(" · ") || JSON.stringify(data).slice(0, 200);
  }

  function metric(data, add) {
    if (data.health) {
      const { cpu_load, free_memory, total_memory, temperature } = data.health;
      add(cpu_load, `CPU ${cpu_load} %`);
      if (Number(total_memory) > 0) add(free_memory, `memory ${Math.round((free_memory / total_memory) * 100)} % free`);
      add(temperature, `${temperature} °C`);
    } else if (Array.isArray(data.interfaces)) {
      const up = data.interfaces.filter((one) => one.running).length;
      add(data.interfaces.length, `${up} of ${data.interfaces.length} interfaces up`);
    } else if (Array.isArray(data.wireless)) {
      const clients = data.wireless.reduce((sum, one) => sum + (Number(one.client_count) || 0), 0);
      add(data.wireless.length, `${clients} wireless clients`);
    } else {
      add(data.type);
    }
  }

  // --- Controls -----------------------------------------------------------------------------------

  const wantedTypes = () => element("types").value.split(/[\s,]+/).filter(Boolean);

  // A token with a tenant shows that one; one without, of a super_admin, shows all and offers those seen.
  function fillTenants() {
    const select = element("tenant");
    const chosen = select.value;
    const own = page.claims.tenant_id;
    const options = own ? [[own, own]] : [["", "All tenants"], ...[...page.tenants].sort().map((id) => [id, id])];
    select.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
    select.value = options.some(([value]) => value === chosen) ? chosen : options[0][0];
    select.disabled = Boolean(own);
  }

  function writeCommands() {
    const tenant = (page.token && element("tenant").value) || page.claims.tenant_id || [...page.tenants].sort()[0] || "11111111-1111-4111-8111-111111111111";
    const at = `${base()}/tenants/${tenant}/events`;
    const auth = `-H "Authorization: Bearer $TOKEN"`;
    const commands = [
      ["The access token", "export TOKEN='…'", page.token && `export TOKEN='${page.token}'`],
      ["Mint a stream token: it opens one stream, within 30 s", `STREAM_TOKEN=$(curl -sS -X POST ${auth} ${base()}/auth/sse-token | sed 's/.*"token":"\\([^"]*\\)".*/\\1/')`],
      ["Open a stream with it", `curl -sSN "${at}/stream?token=$STREAM_TOKEN"`],
      ["Publish an event", `curl -sS ${auth} -H 'Content-Type: application/json' \\\n  -d '{"type":"device_status","device_id":"my-router","data":{"status":"online","name":"My router"}}' \\\n  ${at}`],
      ["Read the history, oldest first", `curl -sS ${auth} "${at}?limit=10"`],
    ];
    element("commands").replaceChildren(...commands.map(([title, shown, copied]) => {
      const block = row("command");
      block.querySelector("h3").textContent = title;
      block.querySelector("code").textContent = shown;
      const button = block.querySelector("button");
      button.setAttribute("aria-label", `Copy: ${title}`);
      button.addEventListener("click", () => copy(button, copied || shown));
      return block;
    }));
  }

  async function copy(button, text) {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      // Without https or on a host that is not local, browsers give no clipboard.
      button.textContent = "Can't copy";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  }

  function setPaused(paused) {
    page.paused = paused;
    element("pause").setAttribute("aria-pressed", String(paused));
    element("pause").textContent = paused ? "Go on" : "Pause";
    schedule();
  }

  element("token-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const token = element("token").value.replace(/\s/g, "");
    if (token) useToken(token);
  });
  element("controls").addEventListener("submit", (event) => {
    event.preventDefault();
    restart();
  });
  for (const id of ["tenant", "types", "device"]) {
    element(id).addEventListener("change", () => {
      writeCommands();
      restart();
    });
  }
  element("forget").addEventListener("click", () => forgetToken());
  element("pause").addEventListener("click", () => setPaused(!page.paused));
  element("clear").addEventListener("click", clearEvents);
  element("known-types").replaceChildren(...BUILT_IN.map((name) => new Option(name, name)));
  addEventListener("hashchange", () => {
    const token = tokenFromFragment();
    if (token) useToken(token);
  });

  const token = tokenFromFragment() || sessionStorage.getItem(STORED);
  if (token) useToken(token);
  else forgetToken();
})();
