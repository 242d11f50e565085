"use strict";

const $ = (id) => document.getElementById(id);
const form = $("form");
let job = null; // the id of the video that is being made

function headers() {
  return $("key").value ? { Authorization: `Bearer ${$("key").value}` } : {};
}

async function ask(path, options = {}) {
  const answer = await fetch(path, { ...options, headers: headers() });
  if (answer.ok) return answer;
  if (answer.status === 401) $("key-label").hidden = false;
  const body = await answer.json().catch(() => null);
  throw new Error(body?.error?.message ?? `the server answered ${answer.status}`);
}

function show(error) {
  $("error").textContent = error ? error.message : "";
  $("error").hidden = !error;
}

function choose(file) {
  const url = URL.createObjectURL(file);
  $("preview").src = url;
  $("preview").hidden = false;
  $("hint").hidden = true;
  $("make").disabled = job !== null;
}

async function fillSchedules() {
  const answer = await fetch("schedules");
  for (const name of (await answer.json()).schedules) {
    $("schedule").add(new Option(name, name));
  }
}

// Reads server-sent events with fetch, because EventSource cannot send a key.
async function watch(id) {
  const answer = await ask(`v1/videos/${id}/events`);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  let state = null;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return state;
    text += value;
    const events = text.split("\n\n");
    text = events.pop();
    for (const event of events) {
      state = JSON.parse(event.split("\n").find((line) => line.startsWith("data: ")).slice(6));
      $("progress").value = state.progress;
      $("status").textContent = state.status === "queued" ? "Waiting for a free worker" : `${state.progress} %`;
    }
  }
}

async function make() {
  const fields = new FormData(form);
  for (const [name, value] of [...fields]) if (value === "") fields.delete(name);
  const created = await (await ask("v1/videos", { method: "POST", body: fields })).json();
  job = created.id;
  const state = await watch(job);
  if (state?.status === "cancelled") return;
  if (state?.status !== "completed") throw new Error(state?.error?.message ?? "the connection was lost");
  const video = await (await ask(`v1/videos/${job}/content`)).blob();
  const url = URL.createObjectURL(video);
  $("video").src = url;
  $("download").href = url;
  $("download").download = `vcut-${state.seed}.mp4`;
  $("facts").textContent = [`seed ${state.seed}`, ...state.notes].join("; ");
  $("result").hidden = false;
  $("video").play().catch(() => {});
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  show(null);
  $("result").hidden = true;
  $("work").hidden = false;
  $("progress").value = 0;
  $("status").textContent = "Sending the photograph";
  $("make").disabled = true;
  try {
    await make();
  } catch (error) {
    show(error);
  } finally {
    job = null;
    $("work").hidden = true;
    $("make").disabled = false;
  }
});

$("stop").addEventListener("click", async () => {
  if (job) await ask(`v1/videos/${job}`, { method: "DELETE" }).catch(show);
});

$("file").addEventListener("change", () => $("file").files.length && choose($("file").files[0]));
form.elements.motion_bucket_id.addEventListener("input", (event) => { $("motion").value = event.target.value; });
for (const name of ["dragover", "dragleave", "drop"]) {
  $("drop").addEventListener(name, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", name === "dragover");
    if (name === "drop" && event.dataTransfer.files.length) {
      $("file").files = event.dataTransfer.files;
      choose(event.dataTransfer.files[0]);
    }
  });
}
fillSchedules();
