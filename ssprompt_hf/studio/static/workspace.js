// The page where photographs are labelled. The server knows everything; this draws it, and tells what a person does.
const root = element.querySelector(".ss");
const part = Object.fromEntries([...root.querySelectorAll("[data-part]")].map((e) => [e.dataset.part, e]));
const canvas = part.canvas, context = canvas.getContext("2d");
const who = (() => {
  try {
    const known = sessionStorage.getItem("ssprompt-who");
    if (known) return known;
  } catch (e) {}
  const made = [...crypto.getRandomValues(new Uint8Array(12))].map((b) => b.toString(16).padStart(2, "0")).join("");
  try { sessionStorage.setItem("ssprompt-who", made); } catch (e) {}
  return made;
})();
const TOOLS = [
  ["click", "Click", "c", "points", "Click on the object; right or shift click beside it (c)"],
  ["box", "Box", "b", "boxes", "Draw a box (b)"],
  ["scribble", "Scribble", "s", "points", "Draw a line on the object; with the right button or shift beside it (s)"],
  ["brush", "Brush", "p", null, "Paint (p)"],
  ["erase", "Eraser", "e", null, "Erase (e)"],
  ["pick", "Pick", "v", null, "Choose an object that is there, to correct it (v)"],
];
const KEYS = [["1 – 9", "class"], ["z, ⇧z", "undo, redo"], ["n", "next to label"], ["← →", "photograph before, after"], ["↵", "next object"],
  ["Del", "delete object"], ["a", "start from prediction"], ["c b s p e v", "tools"], ["[ ]", "size of the brush"], ["h", "hide colours"],
  ["wheel", "zoom; middle button or space moves"], ["f", "fit"]];
part.keys.innerHTML = KEYS.map(([k, t]) => `<dt>${k}</dt><dd>${t}</dd>`).join("");

let view = null, photo = null, overlay = null, tool = "click", drag = null, hidden = false, space = false, mouse = null;
let zoom = { scale: 1, x: 0, y: 0 };
const thumbs = new Map();
let chain = Promise.resolve(), waiting = 0;

function act(event) {
  waiting += 1;
  part.busy.classList.add("on");
  chain = chain.then(async () => {
    try {
      await show(await server.act({ who, event }));
    } catch (problem) {
      say("The server does not answer: what was done before is on its disk. Load the page again when it runs.", true);
    } finally {
      waiting -= 1;
      if (!waiting) part.busy.classList.remove("on");
      root.dataset.waiting = waiting;
    }
  });
  root.dataset.waiting = waiting;
  return chain;
}

function picture(address) {
  return new Promise((resolve) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = () => resolve(null);
    image.src = address;
  });
}

async function show(next) {
  const before = view && view.current, now = next.current;
  if (now) {
    if (now.image) photo = await picture(now.image);
    overlay = await picture(now.overlay);
  } else photo = overlay = null;
  view = next;
  if (now && (!before || before.name !== now.name)) fit();
  drawLists();
  say(next.error || (now && now.note) || "", Boolean(next.error));
  draw();
  loadThumbs();
}

function say(text, isError) {
  part.note.textContent = text;
  part.note.classList.toggle("error", isError);
}

async function loadThumbs() {
  const names = view.images.map((i) => i.name).filter((n) => !thumbs.has(n)).slice(0, 12);
  if (!names.length) return;
  names.forEach((n) => thumbs.set(n, ""));
  try {
    for (const [name, url] of Object.entries(await server.thumbnails({ who, names }))) thumbs.set(name, url);
  } catch (e) { return; }
  drawImages();
  loadThumbs();
}

function node(tag, text, cls) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (cls) made.className = cls;
  return made;
}

function drawImages() {
  const list = part.images, now = view.current && view.current.name;
  list.replaceChildren(...view.images.map((image) => {
    const item = node("li");
    item.classList.toggle("on", image.name === now);
    item.title = image.locked ? image.name + ": somebody else is labelling it" : image.name;
    item.dataset.name = image.name;
    const url = thumbs.get(image.name), small = node("small", image.locked ? "🔒" : image.share ? image.share + " %" : "");
    if (image.share >= 99) { small.textContent = "✓"; small.className = "done"; }
    const thumb = url ? node("img") : node("span", undefined, "ss-none");
    if (url) { thumb.src = url; thumb.alt = ""; }
    item.append(thumb, node("b", image.name), small);
    item.onclick = () => act({ do: "open", name: image.name });
    return item;
  }));
  const on = list.querySelector(".on");
  if (on) on.scrollIntoView({ block: "nearest" });
  part.count.textContent = `${view.labelled} of ${view.images.length} labelled`;
  part.bar.style.width = (100 * view.labelled) / Math.max(1, view.images.length) + "%";
}

function drawLists() {
  root.classList.toggle("readonly", !view.can_write);
  root.classList.toggle("fixed", !view.can_name);
  drawImages();
  const area = view.current ? view.current.width * view.current.height : 1;
  part.classes.replaceChildren(...view.classes.map((one, index) => {
    const item = node("li");
    item.classList.toggle("on", one.id === view.class_id);
    item.dataset.name = one.name;
    const color = node("input");
    color.type = "color"; color.value = one.color; color.title = "Colour"; color.disabled = !view.can_name;
    color.onclick = (e) => e.stopPropagation();
    color.onchange = () => act({ do: "change_class", class_id: one.id, color: color.value });
    const name = node("b", one.name);
    name.title = (one.thing ? "a thing: objects are told apart" : "stuff: one region") + ". Double click to rename";
    name.ondblclick = () => {
      const text = view.can_name && prompt("Name of the class", one.name);
      if (text) act({ do: "change_class", class_id: one.id, name: text });
    };
    const share = one.pixels ? Math.max(0.1, (100 * one.pixels) / area).toFixed(1) + " %" : one.thing ? "thing" : "stuff";
    const remove = node("button", "×");
    remove.title = "Remove the class"; remove.className = "ss-name";
    remove.onclick = (e) => { e.stopPropagation(); act({ do: "remove_class", class_id: one.id }); };
    const small = node("small", share);
    if (index < 9) small.append(node("kbd", String(index + 1)));
    item.append(color, name, small, remove);
    item.onclick = () => act({ do: "choose", class_id: one.id });
    return item;
  }));
  const takes = (kind) => kind === null || view.takes.includes(kind);
  part.tools.classList.toggle("ss-write", true);
  part.tools.replaceChildren(...TOOLS.map(([name, text, key, kind, title]) => {
    const button = node("button", text);
    button.title = takes(kind) ? title : "The base model takes none";
    button.disabled = !takes(kind);
    button.dataset.tool = name;
    button.classList.toggle("on", tool === name);
    button.onclick = () => choose(name);
    return button;
  }));
  if (!takes(TOOLS.find((one) => one[0] === tool)[3])) choose("brush");
  part.phrase.style.display = takes("text") && view.can_write ? "" : "none";
  const now = view.current;
  for (const [name, can] of [["undo", now && now.can_undo], ["redo", now && now.can_redo], ["delete", now && now.object]])
    root.querySelector(`[data-do="${name}"]`).disabled = !can;
  part.size.textContent = now ? `${now.name} · ${now.width} × ${now.height}` : "";
  part.empty.style.display = now ? "none" : "grid";
  part.empty.textContent = "No photographs yet.\nAdd some with the button above.";
  root.dataset.ready = "yes";
}

function choose(name) {
  tool = name;
  for (const button of part.tools.children) button.classList.toggle("on", button.dataset.tool === name);
  part.radius.style.display = name === "brush" || name === "erase" ? "" : "none";
  canvas.style.cursor = name === "brush" || name === "erase" ? "none" : "crosshair";
  draw();
}

// The canvas: `zoom` goes from pixels of the photograph to those of the screen
function fit() {
  if (!view || !view.current) return;
  const { clientWidth: w, clientHeight: h } = part.stage, { width, height } = view.current;
  if (!w || !h) return;
  const scale = Math.min((w - 32) / width, (h - 32) / height);
  zoom = { scale, x: (w - width * scale) / 2, y: (h - height * scale) / 2 };
}

const toScreen = ([x, y]) => [(x + 0.5) * zoom.scale + zoom.x, (y + 0.5) * zoom.scale + zoom.y];
const toImage = ([x, y]) => [(x - zoom.x) / zoom.scale - 0.5, (y - zoom.y) / zoom.scale - 0.5];
const clamp = ([x, y]) => [Math.min(Math.max(x, 0), view.current.width - 1), Math.min(Math.max(y, 0), view.current.height - 1)];
const radius = () => Number(part.radius.querySelector("input").value);

function draw() {
  const ratio = window.devicePixelRatio || 1, { clientWidth: w, clientHeight: h } = part.stage;
  if (canvas.width !== Math.round(w * ratio) || canvas.height !== Math.round(h * ratio)) {
    canvas.width = Math.round(w * ratio); canvas.height = Math.round(h * ratio);
  }
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, w, h);
  if (!view || !view.current || !photo) return;
  const now = view.current, size = [now.width * zoom.scale, now.height * zoom.scale];
  context.imageSmoothingEnabled = zoom.scale < 3;
  context.drawImage(photo, zoom.x, zoom.y, ...size);
  context.imageSmoothingEnabled = false;
  if (overlay && !hidden) {
    context.globalAlpha = part.opacity.querySelector("input").value / 100;
    context.drawImage(overlay, zoom.x, zoom.y, ...size);
    context.globalAlpha = 1;
  }
  const object = now.object;
  if (object && !hidden) {
    for (const [line, on] of object.scribbles) stroke(line, on ? "#22c55e" : "#ef4444", 3);
    if (object.box) rectangle(object.box, "#ffde59");
    for (const [x, y, on] of object.points) dot([x, y], on ? "#22c55e" : "#ef4444");
  }
  if (drag && drag.points) {
    const last = drag.points[drag.points.length - 1], first = drag.points[0];
    if (tool === "box") rectangle([...first, ...last], "#ffde59");
    else if (tool === "scribble") stroke(drag.points, drag.on ? "#22c55e" : "#ef4444", 3);
    else if (tool === "brush" || tool === "erase")
      stroke(drag.points, tool === "erase" ? "rgba(239,68,68,.5)" : "rgba(255,255,255,.55)", 2 * radius() * zoom.scale);
  }
  if (mouse && (tool === "brush" || tool === "erase")) {
    context.beginPath();
    context.arc(...mouse, radius() * zoom.scale, 0, 7);
    context.lineWidth = 1.5; context.strokeStyle = "#fff"; context.stroke();
  }
}

function dot(at, color) {
  context.beginPath();
  context.arc(...toScreen(at), 6, 0, 7);
  context.fillStyle = color; context.fill();
  context.lineWidth = 2; context.strokeStyle = "#fff"; context.stroke();
}

function stroke(points, color, width) {
  context.beginPath();
  points.forEach((p, i) => (i ? context.lineTo(...toScreen(p)) : context.moveTo(...toScreen(p))));
  if (points.length === 1) context.lineTo(...toScreen(points[0]));
  context.lineWidth = width; context.lineCap = context.lineJoin = "round"; context.strokeStyle = color; context.stroke();
}

function rectangle([left, top, right, bottom], color) {
  const [x0, y0] = toScreen([left, top]), [x1, y1] = toScreen([right, bottom]);
  context.lineWidth = 2; context.strokeStyle = color; context.strokeRect(x0, y0, x1 - x0, y1 - y0);
}

const at = (e) => { const box = canvas.getBoundingClientRect(); return [e.clientX - box.left, e.clientY - box.top]; };

canvas.oncontextmenu = (e) => e.preventDefault();
canvas.onpointerdown = (e) => {
  if (!view || !view.current) return;
  root.focus({ preventScroll: true });
  canvas.setPointerCapture(e.pointerId);
  const on = !(e.button === 2 || e.shiftKey || e.altKey);
  if (e.button === 1 || space || !view.can_write) drag = { move: at(e) };
  else drag = { points: [clamp(toImage(at(e)))], on };
  e.preventDefault();
};
canvas.onpointermove = (e) => {
  mouse = at(e);
  if (drag && drag.move) {
    zoom.x += mouse[0] - drag.move[0]; zoom.y += mouse[1] - drag.move[1];
    drag.move = mouse;
  } else if (drag) drag.points.push(clamp(toImage(mouse)));
  draw();
};
canvas.onpointerleave = () => { mouse = null; draw(); };
canvas.onpointercancel = () => { drag = null; draw(); };
canvas.onpointerup = () => {
  const done = drag;
  drag = null;
  if (!done || !done.points) return;
  const [first, last] = [done.points[0], done.points[done.points.length - 1]];
  const thin = done.points.filter((p, i) => !i || i === done.points.length - 1 || i % Math.ceil(done.points.length / 400) === 0);
  if (tool === "click") act({ do: "click", x: first[0], y: first[1], on_it: done.on });
  else if (tool === "pick") act({ do: "pick", x: first[0], y: first[1] });
  else if (tool === "scribble") act({ do: "scribble", line: thin, on_it: done.on });
  else if (tool === "brush" || tool === "erase")
    act({ do: "brush", line: thin, radius: radius(), erase: tool === "erase" || !done.on });
  else if (Math.abs(last[0] - first[0]) > 1 && Math.abs(last[1] - first[1]) > 1)
    act({ do: "box", left: first[0], top: first[1], right: last[0], bottom: last[1] });
  draw();
};
canvas.addEventListener("wheel", (e) => {
  if (!view || !view.current) return;
  e.preventDefault();
  const [x, y] = at(e), factor = Math.exp(-e.deltaY * 0.0015), scale = Math.min(40, Math.max(0.05, zoom.scale * factor));
  zoom = { scale, x: x - ((x - zoom.x) * scale) / zoom.scale, y: y - ((y - zoom.y) * scale) / zoom.scale };
  draw();
}, { passive: false });

// Buttons, forms and keys
for (const button of root.querySelectorAll("[data-do]")) button.onclick = () => act({ do: button.dataset.do });
part.add.onsubmit = (e) => {
  e.preventDefault();
  const form = part.add;
  act({ do: "add_class", name: form.elements.name.value, thing: form.elements.thing.checked });
  form.elements.name.value = "";
};
part.phrase.onsubmit = (e) => {
  e.preventDefault();
  const text = part.phrase.elements.text.value.trim();
  if (text) act({ do: "phrase", text });
};
part.radius.oninput = part.opacity.oninput = draw;

function neighbour(step) {
  const index = view.images.findIndex((i) => view.current && i.name === view.current.name);
  const other = view.images[index + step];
  if (other) act({ do: "open", name: other.name });
}

function key(e) {
  const shown = root.offsetParent !== null, typing = e.target.closest && e.target.closest("input:not([type=range]):not([type=checkbox]), textarea, select, [contenteditable]");
  if (!shown || !view || typing) return;
  const name = e.key.length === 1 ? e.key.toLowerCase() : e.key;
  if (name === " ") { space = e.type === "keydown"; if (e.target === document.body || root.contains(e.target)) e.preventDefault(); return; }
  if (e.type === "keyup" || ((e.metaKey || e.ctrlKey) && name !== "z" && name !== "y")) return;
  const known = TOOLS.find((one) => one[2] === name);
  const slider = part.radius.querySelector("input");
  if (name === "z") act({ do: e.shiftKey ? "redo" : "undo" });
  else if (name === "y") act({ do: "redo" });
  else if (name === "n") act({ do: "next" });
  else if (name === "a") act({ do: "predict" });
  else if (name === "Enter") act({ do: "finish" });
  else if (name === "Delete" || name === "Backspace") act({ do: "delete" });
  else if (name === "ArrowLeft") neighbour(-1);
  else if (name === "ArrowRight") neighbour(1);
  else if (name === "h") { hidden = !hidden; draw(); }
  else if (name === "f") { fit(); draw(); }
  else if (name === "[") { slider.value = radius() - Math.max(1, Math.round(radius() / 8)); draw(); }
  else if (name === "]") { slider.value = radius() + Math.max(1, Math.round(radius() / 8)); draw(); }
  else if (/^[1-9]$/.test(name)) { const one = view.classes[name - 1]; if (one) act({ do: "choose", class_id: one.id }); }
  else if (known && !part.tools.querySelector(`[data-tool="${known[0]}"]`).disabled) choose(known[0]);
  else return;
  e.preventDefault();
}
document.addEventListener("keydown", key);
document.addEventListener("keyup", key);
let stageSize = "";
new ResizeObserver(() => {
  const size = `${part.stage.clientWidth}x${part.stage.clientHeight}`;
  if (size !== stageSize) { stageSize = size; fit(); draw(); }
}).observe(part.stage);
setInterval(() => {  // others may have labelled meanwhile
  if (!waiting && !drag && view && root.offsetParent && !document.hidden && !part.classes.contains(document.activeElement)) act({ do: "peek" });
}, 15000);
choose("click");
window.ssprompt_studio = { who, look: () => act({ do: "look" }), toScreen: (p) => { const b = canvas.getBoundingClientRect(), [x, y] = toScreen(p); return [b.left + x, b.top + y]; } };
act({ do: "look" });
