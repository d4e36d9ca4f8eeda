// Talking to the server that this page came from. Nothing else is ever asked.

const TOKEN = "facewright-token";
const PIECE = 8_000_000; // bytes; larger files go in pieces of this size
const LONGEST_PATIENCE = 120; // seconds for which a busy server is asked again

export class Refused extends Error {
  constructor(status, problem, retryAfter) {
    super(problem.detail || "The server could not be reached.");
    this.status = status;
    this.code = problem.code || "unreachable";
    this.retryAfter = retryAfter;
  }
}

export function setToken(token) {
  sessionStorage.setItem(TOKEN, token);
}

function headers(more = {}) {
  const token = sessionStorage.getItem(TOKEN);
  return token ? { ...more, Authorization: `Bearer ${token}` } : more;
}

async function refusal(answer) {
  let problem = {};
  try {
    problem = await answer.json();
  } catch {
    // an answer of something between here and the server
  }
  return new Refused(answer.status, problem, Number(answer.headers.get("Retry-After")) || 0);
}

async function call(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { ...options, headers: headers(options.headers) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, { detail: "The server cannot be reached. Is it still running?" }, 0);
  }
  if (!answer.ok) throw await refusal(answer);
  return answer;
}

export async function describe() {
  return (await call("/v1/tasks")).json();
}

export async function blob(path) {
  const answer = await patiently(() => call(path), () => {});
  return answer.blob();
}

export async function cancel(job) {
  try {
    await call(`/v1/jobs/${job}`, { method: "DELETE" });
  } catch (error) {
    if (error.status !== 404) throw error;
  }
}

// Delete a job while the page goes away.
export function leave(job) {
  fetch(`/v1/jobs/${job}`, { method: "DELETE", headers: headers(), keepalive: true }).catch(() => {});
}

// One job: sends the form, waits while the server is busy, and follows the job to its end.
// `onChange` hears {stage, share} and in the end the job is returned; a failed job is thrown.
export async function run(verb, fields, { onChange, signal }) {
  const form = await withPieces(fields, onChange, signal);
  const started = await patiently(() => post(`/v1/${verb}`, form, onChange, signal), onChange, signal);
  const forget = () => cancel(started.id).catch(() => {});
  signal.addEventListener("abort", forget, { once: true });
  try {
    const job = await follow(started, onChange, signal);
    if (job.state === "done") return job;
    throw new Refused(job.problem?.status || 0, job.problem || { detail: "Cancelled.", code: "cancelled" }, 0);
  } finally {
    signal.removeEventListener("abort", forget);
  }
}

async function patiently(action, onChange, signal) {
  const end = Date.now() + 1000 * LONGEST_PATIENCE;
  for (;;) {
    try {
      return await action();
    } catch (error) {
      if (error.status !== 429 || Date.now() > end) throw error;
      const seconds = Math.min(error.retryAfter || 2, 15);
      onChange({ stage: `The server is busy; trying again in ${seconds} s`, share: null });
      await pause(1000 * seconds, signal);
    }
  }
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new DOMException("stopped", "AbortError"));
    });
  });
}

// XMLHttpRequest, because fetch does not say how much of an upload has gone.
function post(path, form, onChange, signal) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", path);
    for (const [name, value] of Object.entries(headers())) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => {
      if (event.lengthComputable) onChange({ stage: "Sending", share: event.loaded / event.total });
    };
    request.onload = () => {
      let content = {};
      try {
        content = JSON.parse(request.responseText);
      } catch {
        // not of this server
      }
      if (request.status >= 200 && request.status < 300) resolve(content);
      else reject(new Refused(request.status, content, Number(request.getResponseHeader("Retry-After")) || 0));
    };
    request.onerror = () =>
      reject(new Refused(0, { detail: "The server cannot be reached. Is it still running?" }, 0));
    request.onabort = () => reject(new DOMException("stopped", "AbortError"));
    signal.addEventListener("abort", () => request.abort(), { once: true });
    request.send(form);
  });
}

// A form in which large files are replaced by the ids of uploads.
async function withPieces(fields, onChange, signal) {
  const form = new FormData();
  for (const [name, value] of fields) {
    const isLarge = value instanceof File && value.size > 4 * PIECE;
    if (isLarge) form.append(name, await sendPieces(value, onChange, signal));
    else if (value instanceof File) form.append(name, value, value.name);
    else form.append(name, value);
  }
  return form;
}

async function sendPieces(file, onChange, signal) {
  const begun = await call("/v1/uploads", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ name: file.name, bytes: file.size }),
    signal,
  });
  const upload = await begun.json();
  let offset = 0;
  for (let failures = 0; offset < file.size; ) {
    onChange({ stage: "Sending", share: offset / file.size });
    try {
      const piece = file.slice(offset, offset + PIECE);
      const answer = await call(`/v1/uploads/${upload.id}?offset=${offset}`, { method: "PUT", body: piece, signal });
      offset = (await answer.json()).offset;
      failures = 0;
    } catch (error) {
      if (error.name === "AbortError" || (error.status && error.status !== 409) || ++failures > 5) throw error;
      await pause(1000 * failures, signal);
      offset = (await (await call(`/v1/uploads/${upload.id}`, { signal })).json()).offset;
    }
  }
  return upload.id;
}

// Events where they come through, questions every second where they do not.
async function follow(job, onChange, signal) {
  try {
    const answer = await call(`/v1/jobs/${job.id}/events`, { signal });
    for await (const event of events(answer.body)) {
      job = event;
      onChange(told(job));
    }
  } catch (error) {
    if (error.name === "AbortError" || error.status) throw error;
  }
  while (job.state === "queued" || job.state === "running") {
    job = await (await call(`/v1/jobs/${job.id}?wait=20`, { signal })).json();
    onChange(told(job));
  }
  return job;
}

async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const blocks = text.split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const data = block.split("\n").find((line) => line.startsWith("data: "));
      if (data) yield JSON.parse(data.slice(6));
    }
  }
}

function told(job) {
  if (job.state === "queued") {
    const first = job.position ? `${job.position} before it` : "next";
    return { stage: `Waiting: ${first}`, share: null };
  }
  const { stage, done, total } = job.progress;
  const said = stage ? stage[0].toUpperCase() + stage.slice(1) : "Starting";
  return { stage: total ? `${said}: ${done} of ${total}` : said, share: total ? done / total : null };
}
