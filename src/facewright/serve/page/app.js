// The page: photos in, a queue, the viewer, the panel. What a task is comes from the server.

import * as api from "./api.js";
import { Form, asSent, element, label } from "./form.js";
import { Viewer } from "./viewer.js";

const AT_ONCE = 2;
const $ = (id) => document.getElementById(id);
const SUFFIXES = {
  "image/jpeg": "jpg", "image/png": "png", "image/webp": "webp", "image/tiff": "tif", "image/heic": "heic",
  "image/avif": "avif", "image/gif": "gif", "image/bmp": "bmp", "image/jp2": "jp2",
};

let server = null;
let task = null;
let entries = [];
let current = null;
let pair = [null, null];

const form = new Form($("form"), () => {});
const viewer = new Viewer($("viewer"), { onFace: chooseFace, onScale: (text) => ($("scale").textContent = text) });

// --- beginning

async function begin() {
  try {
    server = await api.describe();
  } catch (error) {
    if (error.status === 401) return askForToken();
    $("empty-title").textContent = "The server does not answer";
    $("empty-text").textContent = error.message;
    $("choose").hidden = true;
    return undefined;
  }
  server.tasks = server.tasks.filter((one) => !one.networks.model || one.networks.model.some(isUsable));
  for (const one of server.tasks) $("task").append(new Option(label(one.verb), one.verb));
  $("task").value = server.tasks.some((one) => one.verb === "restore") ? "restore" : server.tasks[0].verb;
  for (const format of ["", "PNG", "JPEG", "WEBP", "TIFF", "HEIF", "AVIF"]) {
    $("format").append(new Option(format || "As the photo", format));
  }
  setTask($("task").value);
  return undefined;
}

// Whether a model has weights here: only such are shown.
function isUsable(model) {
  return model.ready || model.weights.length > 0;
}

function askForToken() {
  const dialog = $("key");
  dialog.addEventListener(
    "close",
    async () => {
      api.setToken($("token").value.trim());
      try {
        await api.describe();
        begin();
      } catch {
        $("key-wrong").hidden = false;
        askForToken();
      }
    },
    { once: true },
  );
  dialog.showModal();
}

function setTask(verb) {
  task = server.tasks.find((one) => one.verb === verb);
  form.build(task);
  pair = [null, null];
  for (const entry of entries) reset(entry);
  const isMaking = task.inputs.length === 0;
  $("add").hidden = task.inputs.length !== 1;
  $("files").multiple = task.inputs.length === 1;
  $("files").accept = task.media.includes("video") ? "image/*,video/*,.heic,.tif,.tiff,.dng,.jxl,.mkv" : "image/*,.heic,.tif,.tiff,.dng,.jxl";
  $("run").textContent = isMaking ? "Make" : "Run";
  showEmptyText();
  fillVersus();
  if (task.inputs.length === 1 && current) {
    entries.filter((entry) => entry !== current).forEach((entry) => (entry.state = "idle"));
    enqueue(current);
  } else if (task.inputs.length !== 1) {
    current = null;
  }
  show();
}

function showEmptyText() {
  const isLocal = ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname);
  const minutes = Math.round(server.limits.keep_seconds / 60);
  const kept = minutes >= 120 ? `${Math.round(minutes / 60)} hours` : `${Math.max(1, minutes)} minutes`;
  $("where").textContent = isLocal
    ? "Your photos stay on this computer. The originals are never changed."
    : `Photos go to this server only and are deleted there when you leave, at the latest after ${kept}.`;
  const count = task.inputs.length;
  $("empty-title").textContent = ["Nothing to drop", "Drop photos here", "Drop two photos here"][count];
  $("empty-text").textContent = count ? "or paste them, or" : task.summary;
  $("choose").textContent = count === 2 ? "Choose two photos" : "Choose photos";
  $("choose").hidden = count === 0;
  $("slots").hidden = count !== 2;
  if (count === 2) drawSlots();
}

// --- files in

function add(files) {
  const given = [...files].filter((file) => file.size > 0);
  if (!given.length || !task) return;
  if (task.inputs.length === 2) return addToPair(given);
  if (task.inputs.length === 0) return say("This task takes no photos.");
  const added = given.map((file) => ({ file, name: file.name, url: null, thumb: null, runs: [], history: [], state: "idle" }));
  entries.push(...added);
  for (const entry of added) {
    if (isShown(entry.file)) entry.thumb = URL.createObjectURL(entry.file);
    enqueue(entry);
  }
  say(added.length === 1 ? `${added[0].name} was added.` : `${added.length} photos were added.`);
  if (!current) current = added[0];
  show();
  return undefined;
}

function isShown(file) {
  return /^image\/(jpeg|png|webp|gif|bmp|avif)$/.test(file.type);
}

function addToPair(files) {
  for (const file of files) {
    const free = pair.indexOf(null);
    pair[free < 0 ? 1 : free] = file;
  }
  showEmptyText();
  if (!pair.includes(null)) runPair();
}

function drawSlots() {
  $("slots").replaceChildren(
    ...task.inputs.map((name, place) => {
      const file = pair[place];
      const button = element("button", { type: "button", className: "slot" });
      button.setAttribute("aria-label", file ? `${label(name)} photo: ${file.name}; choose another` : `Choose the ${name} photo`);
      if (file && isShown(file)) button.append(element("img", { src: URL.createObjectURL(file), alt: "" }));
      else button.append(file ? file.name : `${label(name)} photo`);
      button.addEventListener("click", () => {
        pair[place] = null;
        $("files").click();
      });
      return button;
    }),
  );
}

// --- the queue

function enqueue(entry, request = {}) {
  entry.controller?.abort();
  Object.assign(entry, { state: "waiting", error: null, progress: null, request });
  pump();
}

function pump() {
  while (entries.filter((entry) => entry.state === "working").length < AT_ONCE) {
    const next = current?.state === "waiting" ? current : entries.find((entry) => entry.state === "waiting");
    if (!next) break;
    work(next);
  }
  drawStrip();
}

async function work(entry) {
  const { request } = entry;
  const controller = new AbortController();
  Object.assign(entry, { state: "working", controller });
  const asked = task;
  const options = request.options || form.values();
  const fields = [[task.inputs[0], entry.file], ...asSent(options), ...(request.extra || [])];
  const onChange = (progress) => {
    entry.progress = progress;
    if (entry === current) drawNotice();
  };
  try {
    const job = await api.run(asked.verb, fields, { onChange, signal: controller.signal });
    onChange({ stage: "Fetching the result", share: null });
    const run = await fetched(job, options);
    if (controller.signal.aborted) return;
    if (request.isVersus) entry.versus = run;
    else addRun(entry, run);
    entry.state = "done";
    say(`${entry.name}: ${job.result.summary || "done"}`);
  } catch (error) {
    if (entry.controller !== controller) return; // another run took its place
    entry.state = entry.runs.length ? "done" : "failed";
    entry.error = error.name === "AbortError" ? null : error;
    if (error.name === "AbortError" && !entry.runs.length) entry.state = "idle";
    if (entry.error) say(`${entry.name}: ${error.message}`);
  }
  entry.progress = null;
  if (entry === current) show();
  pump();
}

// A job's pictures, as addresses of this page.
async function fetched(job, options) {
  const { links, result } = job;
  const run = { job, options, faces: result.faces || [], size: result.output_size || result.size };
  if (links.after) {
    const [before, after] = await Promise.all([api.blob(links.before), api.blob(links.after)]);
    Object.assign(run, { before: URL.createObjectURL(before), after: URL.createObjectURL(after) });
    run.opaque = after.type !== "image/png";
  } else if (links.before) {
    run.before = URL.createObjectURL(await api.blob(links.before));
  }
  if (links.video) {
    const video = await api.blob(links.video);
    Object.assign(run, { video: URL.createObjectURL(video), videoType: video.type });
  }
  const made = Object.keys(links).filter((name) => name.startsWith("picture-"));
  run.pictures = await Promise.all(made.map(async (name) => URL.createObjectURL(await api.blob(links[name]))));
  run.on = new Set(run.faces.filter((face) => face.restored !== false).map((face, place) => face.index ?? place));
  return run;
}

function addRun(entry, run) {
  entry.runs.push(run);
  entry.versus = null;
  entry.on = new Set(run.on);
  entry.history.push({ run, strength: 1 });
  if (!entry.thumb && run.before) entry.thumb = run.before;
}

function reset(entry) {
  entry.controller?.abort();
  for (const run of entry.runs) forget(run);
  Object.assign(entry, { runs: [], history: [], state: "idle", versus: null, error: null, progress: null });
  if (!isShown(entry.file)) entry.thumb = null;
}

function forget(run) {
  api.cancel(run.job.id).catch(() => {});
  for (const url of [run.before, run.after, run.video, ...run.pictures]) if (url) URL.revokeObjectURL(url);
}

function now(entry) {
  return entry?.history.at(-1) || null;
}

// --- showing

function show() {
  const inRoom = current || task?.loose;
  $("room").dataset.view = inRoom ? "work" : "empty";
  $("empty").hidden = Boolean(inRoom);
  $("work").hidden = !inRoom;
  $("strip").hidden = entries.length === 0 || task.inputs.length !== 1;
  drawStrip();
  drawStage();
  drawPanel();
  drawNotice();
}

function drawStage() {
  const entry = current;
  const { run, strength } = now(entry) || {};
  const isPicture = Boolean(run?.before);
  for (const id of ["zooming", "boxes"]) $(id).hidden = !isPicture;
  $("side").hidden = !run?.after;
  $("undo").disabled = !entry || entry.history.length < 2;
  $("remove").hidden = !entry;
  $("versus-box").hidden = !run?.after || $("versus").options.length < 2;
  if (!entry) return;
  if (run?.video) {
    const video = element("video", { src: run.video, controls: true });
    video.setAttribute("aria-label", `${entry.name}, edited`);
    viewer.clear(video);
  } else if (isPicture) {
    drawPicture(entry, run, strength);
  } else if (entry.thumb) {
    const plain = new Image();
    plain.onload = () => {
      if (entry !== current || now(entry)) return;
      viewer.show({ size: [plain.naturalWidth, plain.naturalHeight], left: entry.thumb, right: null });
    };
    plain.src = entry.thumb;
  } else {
    viewer.clear();
  }
}

function drawPicture(entry, run, strength) {
  const factor = run.job.result.size ? run.size[0] / run.job.result.size[0] : 1;
  const faces = run.faces.map((face, place) => {
    const index = face.index ?? place;
    const on = (entry.on || run.on).has(index);
    return { index, on, box: face.box.map((v) => v * factor), title: `Face ${index}: ${said(face)}` };
  });
  const points = run.faces.flatMap((face) => {
    const r = Math.max(0.6, face.eye_distance * factor * 0.02);
    return (face.points68 || []).map(([x, y]) => [x * factor, y * factor, r]);
  });
  const versus = entry.versus;
  viewer.show({
    size: run.size,
    left: versus ? run.after : run.before,
    right: versus ? versus.after : run.after || null,
    leftTag: versus ? modelName(run) : "Before",
    rightTag: versus ? modelName(versus) : "After",
    opaque: run.opaque,
    strength: versus ? 1 : strength,
    faces,
    points,
  });
}

function modelName(run) {
  const chosen = run.options.find(([name]) => name === "model")?.[1].split("/")[0];
  const slug = chosen || task.form.properties.model?.default;
  return task.networks.model?.find((model) => model.slug === slug)?.name || slug;
}

function drawStrip() {
  $("queue").replaceChildren(
    ...entries.map((entry, place) => {
      const marks = { waiting: "…", working: "●", done: "✓", failed: "!", idle: "" };
      const words = { waiting: "waiting", working: "being worked on", done: "done", failed: "failed", idle: "not begun" };
      const button = element("button", { type: "button", className: "thumb" });
      button.append(entry.thumb ? element("img", { src: entry.thumb, alt: "" }) : entry.name.slice(0, 18));
      if (marks[entry.state]) button.append(element("span", { className: "state", textContent: marks[entry.state], "aria-hidden": "true" }));
      button.setAttribute("aria-label", `${place + 1}: ${entry.name}, ${words[entry.state]}`);
      if (entry === current) button.setAttribute("aria-current", "true");
      button.addEventListener("click", () => select(entry));
      return element("li", {}, button);
    }),
  );
}

function select(entry) {
  const held = document.activeElement?.closest?.("#queue") !== null && document.activeElement !== document.body;
  current = entry;
  if (entry.state === "idle") enqueue(entry);
  $("versus").value = "";
  if (entry.versus) entry.versus = null;
  show();
  if (held) $("queue").children[entries.indexOf(entry)]?.firstElementChild.focus();
}

function drawNotice() {
  const notice = $("notice");
  const entry = current;
  const { progress, error } = entry || {};
  notice.hidden = !entry || !(progress || error || entry.state === "waiting");
  if (notice.hidden) return;
  if (error) {
    const again = element("button", { type: "button", className: "button", textContent: "Try again" });
    again.addEventListener("click", () => enqueue(entry, entry.request));
    const text = element("p", { className: "wrong", role: "alert", textContent: error.message });
    notice.replaceChildren(text, element("div", { className: "row" }, again));
    return;
  }
  const bar = element("progress", { max: 1 });
  if (progress?.share !== null && progress?.share !== undefined) bar.value = progress.share;
  bar.setAttribute("aria-label", "Progress");
  const stop = element("button", { type: "button", className: "button", textContent: "Cancel" });
  stop.addEventListener("click", () => {
    entry.controller?.abort();
    if (entry.state === "waiting") entry.state = entry.runs.length ? "done" : "idle";
    show();
  });
  const text = element("p", { textContent: progress?.stage || "Waiting for its turn" });
  notice.replaceChildren(text, bar, element("div", { className: "row" }, stop));
}

// --- the panel

function drawPanel() {
  const { run, strength } = now(current) || {};
  $("saving").hidden = !run;
  $("result").hidden = !run;
  drawLive(run, strength);
  if (!run) return;
  const { links, result } = run.job;
  const canSave = Boolean(links.picture || links.video || run.pictures.length);
  $("save").hidden = !canSave;
  $("save").textContent = links.video ? "Save video" : run.pictures.length > 1 ? "Save pictures" : "Save picture";
  $("format").hidden = !links.after;
  $("sheet").hidden = !links.sheet && !links.drawn;
  $("sheet").textContent = links.drawn ? "Picture with marks" : "Before/after sheet";
  $("summary").textContent = result.summary || counted(run.faces.length);
  $("remarks").replaceChildren(...(result.notes || []).map((note) => element("li", { textContent: note })));
  $("faces").replaceChildren(...run.faces.map((face, place) => faceCard(face, face.index ?? place, run)));
  showAgain();
}

function counted(count) {
  return count === 1 ? "1 face found" : count ? `${count} faces found` : "No face found";
}

function drawLive(run, strength) {
  const box = $("live");
  box.hidden = !(run?.after && task.live.includes("strength")) || Boolean(current?.versus);
  if (box.hidden) return;
  const range = element("input", { type: "range", min: 0, max: 1, step: 0.01, id: "strength", value: strength });
  const output = element("output", { textContent: `${Math.round(100 * strength)} %` });
  range.addEventListener("input", () => {
    output.textContent = `${Math.round(100 * range.value)} %`;
    viewer.setStrength(Number(range.value));
  });
  range.addEventListener("change", () => {
    current.history.push({ run, strength: Number(range.value) });
    $("undo").disabled = false;
  });
  box.replaceChildren(element("label", { for: "strength" }, "Strength", output), range);
}

function said(face) {
  if (face.restored === true) return `restored, ${face.reason}`;
  if (face.restored === false) return `left alone, ${face.reason}`;
  if (face.decision) return face.decision;
  return face.quality ? `quality ${Math.round(face.quality.quality)}` : `found, score ${face.score.toFixed(2)}`;
}

function faceCard(face, index, run) {
  const status = face.restored === undefined ? "" : face.restored ? "restored" : "left alone";
  const title = element("h3", {}, `Face ${index}`, element("span", { className: face.restored ? "did" : "", textContent: status }));
  const facts = element("dl", {}, ...factsOf(face).flatMap(([name, value]) => [
    element("dt", { textContent: name }), element("dd", { textContent: value }),
  ]));
  const warnings = (face.warnings || []).map((text) => element("p", { className: "warning", textContent: text }));
  const look = element("button", { type: "button", className: "button quiet", textContent: "Look at it" });
  look.setAttribute("aria-label", `Look at face ${index}`);
  const factor = run.size && run.job.result.size ? run.size[0] / run.job.result.size[0] : 1;
  look.addEventListener("click", () => {
    viewer.look(face.box.map((v) => v * factor));
    setCurrentFace(index);
  });
  const row = element("div", { className: "row" });
  if ("faces" in task.form.properties && run.after) row.append(faceSwitch(face, index));
  row.append(look);
  return element("li", { dataset: { index } }, title, facts, ...warnings, row);
}

function factsOf(face) {
  const facts = [];
  if (face.decision) facts.push(["Answer", face.kind ? `${face.decision} (${face.kind.replaceAll("_", " ")})` : face.decision]);
  if (face.reason) facts.push(["Why", face.reason]);
  if (face.quality_before !== undefined) {
    const after = face.quality_after === null ? "" : ` → ${Math.round(face.quality_after)}`;
    facts.push(["Quality", `${Math.round(face.quality_before)}${after} of 100`]);
  }
  if (face.quality) facts.push(["Quality", `${Math.round(face.quality.quality)} of 100`]);
  if (face.quality?.reasons.length) facts.push(["What is wrong", face.quality.reasons.join(", ").replaceAll("_", " ")]);
  if (face.age) facts.push(["Looks", `${Math.round(face.age.years)}${face.age.low === null ? "" : ` (${Math.round(face.age.low)} to ${Math.round(face.age.high)})`}`]);
  if (face.expression) facts.push(["Expression", face.expression]);
  if (face.attributes) facts.push(["Likely", likely(face.attributes, (p) => p)]);
  if (face.action_units) facts.push(["Muscles", likely(face.action_units, (unit) => unit.probability)]);
  if (face.withheld?.length) facts.push(["Not said", `the picture does not show it: ${face.withheld.join(", ").replaceAll("_", " ")}`]);
  if (typeof face.same_person === "number") facts.push(["Same person", `${Math.round(100 * face.same_person)} %`]);
  if (typeof face.identity === "number") facts.push(["Likeness", face.identity.toFixed(2)]);
  if (face.pose) facts.push(["Turned", `${Math.round(face.pose.yaw)}° sideways, ${Math.round(face.pose.pitch)}° up`]);
  facts.push(["Size", `${Math.round(face.box[2] - face.box[0])} × ${Math.round(face.box[3] - face.box[1])} pixels`]);
  if (face.mask) facts.push(["Parts", Object.keys(face.mask.pixels).filter((n) => n !== "background").join(", ").replaceAll("_", " ")]);
  if (face.embedding) facts.push(["Embedding", `${face.embedding.length} numbers, in the report`]);
  return facts;
}

function likely(values, probability) {
  const there = Object.entries(values).filter(([, value]) => probability(value) >= 0.5).map(([name]) => name);
  return there.join(", ").replaceAll("_", " ") || "nothing";
}

function faceSwitch(face, index) {
  const id = `face-${index}`;
  const box = element("input", { type: "checkbox", id, checked: current.on.has(index) });
  box.addEventListener("change", () => {
    if (box.checked) current.on.add(index);
    else current.on.delete(index);
    const frame = document.querySelectorAll(`.face[data-index="${index}"]`);
    for (const one of frame) one.classList.toggle("off", !box.checked);
    showAgain();
  });
  return element("span", { className: "group" }, box, element("label", { for: id, textContent: "Include" }));
}

function showAgain() {
  const { run } = now(current) || {};
  const same = !run || (current.on.size === run.on.size && [...current.on].every((index) => run.on.has(index)));
  $("again-box").hidden = same || !run.after;
  $("again").disabled = current.on.size === 0;
}

function runAgain() {
  const { run } = now(current);
  const extra = [...current.on].sort((a, b) => a - b).map((index) => ["faces", String(index)]);
  const surplus = run.faces.some((face) => face.restored === false && current.on.has(face.index));
  if (surplus) extra.push(["force", "true"]);
  enqueue(current, { options: run.options.filter(([name]) => name !== "force"), extra });
  show();
}

function chooseFace(index) {
  setCurrentFace(index);
  const card = document.querySelector(`#faces [data-index="${index}"]`);
  card?.scrollIntoView({ block: "nearest" });
  (card?.querySelector("input") || card?.querySelector("button"))?.focus({ preventScroll: true });
}

function setCurrentFace(index) {
  viewer.setCurrent(index);
  for (const card of $("faces").children) card.dataset.current = String(Number(card.dataset.index) === index);
}

// --- two models

function fillVersus() {
  const models = (task.networks.model || []).filter(isUsable);
  $("versus").replaceChildren(new Option("nothing", ""));
  for (const model of models) {
    const weights = model.ready ? "" : model.weights[0];
    $("versus").append(new Option(model.name, `${model.slug}/${weights}`));
  }
}

function compare() {
  const { run } = now(current) || {};
  if (!run) return;
  if (!$("versus").value) {
    current.versus = null;
    show();
    return;
  }
  const options = [...run.options.filter(([name]) => name !== "model"), ["model", $("versus").value]];
  enqueue(current, { options, isVersus: true });
  show();
}

// --- tasks without one photo

async function loosely(fields) {
  task.loose = true;
  const entry = { file: new File([], ""), name: task.verb, runs: [], history: [], state: "working", thumb: null };
  current = entry;
  entry.controller = new AbortController();
  show();
  const onChange = (progress) => {
    entry.progress = progress;
    drawNotice();
  };
  try {
    const options = form.values();
    const job = await api.run(task.verb, [...fields, ...asSent(options)], { onChange, signal: entry.controller.signal });
    addRun(entry, await fetched(job, options));
    entry.state = "done";
  } catch (error) {
    entry.state = "failed";
    entry.error = error.name === "AbortError" ? null : error;
    entry.request = null;
  }
  entry.progress = null;
  task.loose = false;
  return entry;
}

async function runPair() {
  const files = [...pair];
  const entry = await loosely(task.inputs.map((name, place) => [name, files[place]]));
  show();
  if (!entry.runs.length) return finishLoosely(entry);
  const { result } = entry.runs[0].job;
  const shown = files.map((file) =>
    isShown(file) ? element("img", { src: URL.createObjectURL(file), alt: file.name }) : element("p", { textContent: file.name }));
  viewer.clear(element("div", { className: "pair" }, ...shown));
  $("summary").textContent = { same: "The same person", different: "Different people", "cannot tell": "Cannot tell" }[result.decision];
  const lines = [result.reason];
  if (typeof result.probability === "number") {
    lines.push(`Probability of one person, if both were equally likely before: ${Math.round(1000 * result.probability) / 10} %`);
  }
  if (result.note) lines.push(result.note);
  $("remarks").replaceChildren(...lines.map((textContent) => element("li", { textContent })));
  say(`${$("summary").textContent}. ${result.reason}`);
  pair = [null, null];
  return undefined;
}

async function make() {
  const entry = await loosely([]);
  show();
  if (!entry.runs.length) return finishLoosely(entry);
  const pictures = entry.runs[0].pictures.map((src, place) => element("img", { src, alt: `Made picture ${place + 1}` }));
  viewer.clear(element("div", { className: "pictures" }, ...pictures));
  $("summary").textContent = pictures.length === 1 ? "1 picture" : `${pictures.length} pictures`;
  return undefined;
}

function finishLoosely(entry) {
  pair = [null, null];
  if (entry.error) say(entry.error.message);
}

// --- saving

async function savePicture() {
  const { run, strength } = now(current);
  const { links } = run.job;
  if (run.pictures.length) {
    run.pictures.forEach((url, place) => saveAs(url, run.job.result.files[place]));
    return;
  }
  if (links.video) {
    saveAs(run.video, `${stem()}_${task.verb}.${suffixOf(run.videoType)}`);
    return;
  }
  const query = new URLSearchParams();
  if (strength !== 1) query.set("strength", strength);
  if ($("format").value) query.set("format", $("format").value);
  await saveFrom(`${links.picture}${query.size ? `?${query}` : ""}`, `_${task.verb}`);
}

async function saveSheet() {
  const { run, strength } = now(current);
  const { links } = run.job;
  if (links.drawn) await saveFrom(links.drawn, "_marks");
  else await saveFrom(strength === 1 ? links.sheet : `${links.sheet}?strength=${strength}`, "_before_after");
}

function saveReport() {
  const { run, strength } = now(current);
  const result = structuredClone(run.job.result);
  if (result.options && "strength" in result.options) result.options.strength = strength;
  const file = new Blob([JSON.stringify(result, null, 2)], { type: "application/json" });
  const url = URL.createObjectURL(file);
  saveAs(url, `${stem()}_report.json`);
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

async function saveFrom(path, ending) {
  try {
    const content = await api.blob(path);
    const url = URL.createObjectURL(content);
    saveAs(url, `${stem()}${ending}.${suffixOf(content.type)}`);
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
  } catch (error) {
    current.error = error;
    drawNotice();
  }
}

function stem() {
  return current.name.replace(/\.[^.]+$/, "") || "facewright";
}

function suffixOf(type) {
  return SUFFIXES[type] || type.split("/")[1]?.replace("quicktime", "mov").replace("x-matroska", "mkv") || "bin";
}

function saveAs(url, name) {
  const link = element("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  say(`${name} was saved.`);
}

function say(text) {
  $("say").textContent = text;
}

// --- wiring

$("task").addEventListener("change", () => setTask($("task").value));
$("choose").addEventListener("click", () => $("files").click());
$("add").addEventListener("click", () => $("files").click());
$("files").addEventListener("change", () => {
  add($("files").files);
  $("files").value = "";
});
$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (task.inputs.length === 0) make();
  else if (task.inputs.length === 2) {
    if (!pair.includes(null)) runPair();
    else say("Choose two photos first.");
  } else if (current) {
    enqueue(current);
    for (const entry of entries) if (entry.state === "waiting") entry.request = {};
    show();
  } else $("files").click();
});
$("again").addEventListener("click", runAgain);
$("undo").addEventListener("click", () => {
  current.history.pop();
  current.on = new Set(now(current).run.on);
  current.error = null;
  show();
});
$("remove").addEventListener("click", () => {
  const place = entries.indexOf(current);
  reset(current);
  entries = entries.filter((entry) => entry !== current);
  current = entries[Math.min(Math.max(place, 0), entries.length - 1)] || null;
  show();
  (current ? $("stage") : $("choose")).focus();
});
$("in").addEventListener("click", () => viewer.zoom(1.25));
$("out").addEventListener("click", () => viewer.zoom(0.8));
$("fit").addEventListener("click", () => viewer.fit());
$("fit").setAttribute("aria-label", "Fit the photo into the window");
for (const [id, act] of [["side", (on) => viewer.setSideBySide(on)], ["boxes", (on) => viewer.setShowFaces(on)]]) {
  $(id).addEventListener("click", () => {
    const on = $(id).getAttribute("aria-pressed") !== "true";
    $(id).setAttribute("aria-pressed", String(on));
    act(on);
  });
}
$("versus").addEventListener("change", compare);
$("save").addEventListener("click", savePicture);
$("report").addEventListener("click", saveReport);
$("sheet").addEventListener("click", saveSheet);
$("stage").addEventListener("keydown", (event) => {
  if (event.target !== $("stage") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (viewer.content && viewer.key(event)) event.preventDefault();
});
document.addEventListener("keydown", (event) => {
  const isUndo = (event.ctrlKey || event.metaKey) && event.key === "z" && !/INPUT|SELECT|TEXTAREA/.test(event.target.tagName);
  if (isUndo && !$("undo").disabled) {
    event.preventDefault();
    $("undo").click();
  }
});
$("queue").addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const next = entries[entries.indexOf(current) + step];
  if (next) select(next);
});

let dragging = 0;
document.addEventListener("dragenter", (event) => {
  if (![...(event.dataTransfer?.types || [])].includes("Files")) return;
  dragging += 1;
  $("drop").hidden = false;
});
document.addEventListener("dragleave", () => {
  dragging = Math.max(0, dragging - 1);
  if (!dragging) $("drop").hidden = true;
});
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  dragging = 0;
  $("drop").hidden = true;
  add(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => {
  if (event.clipboardData?.files.length) add(event.clipboardData.files);
});

const dark = matchMedia("(prefers-color-scheme: dark)");
const theme = localStorage.getItem("facewright-theme");
if (theme) document.documentElement.dataset.theme = theme;
$("theme").addEventListener("click", () => {
  const shown = document.documentElement.dataset.theme || (dark.matches ? "dark" : "light");
  const other = shown === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = other;
  localStorage.setItem("facewright-theme", other);
});

// Whoever leaves takes their photos along: the server deletes them.
addEventListener("pagehide", (event) => {
  if (!event.persisted) for (const entry of entries) for (const run of entry.runs) api.leave(run.job.id);
});

begin();
