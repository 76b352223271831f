// What a clip needs, its picture, sound and map, lies in a JSON element and becomes an image and
// a player only when its row is opened, so that a page of many clips stays light.

const MP3 = { type: "audio/mpeg" };
const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");
const body = document.querySelector("#clips tbody");
const rows = [...body.rows];
const headers = [...document.querySelectorAll("#clips th")];
const filters = {
  text: document.getElementById("filter"),
  verdict: document.getElementById("verdict"),
  group: document.getElementById("group"), // null where there are no groups
};
const page = read("page");
let open = null; // { row, detail, players } of the clip that is open

function read(id) {
  return JSON.parse(document.getElementById(id).textContent);
}

function nameButton(row) {
  return row.querySelector("td.file button");
}

// Sorting

const collator = new Intl.Collator("en", { numeric: true });

function compare(a, b) {
  const [x, y] = [Number(a), Number(b)];
  return Number.isNaN(x) || Number.isNaN(y) ? collator.compare(a, b) : x - y;
}

function sortBy(header) {
  const opposite = { ascending: "descending", descending: "ascending" };
  const order = opposite[header.ariaSort] ?? header.dataset.first;
  for (const other of headers) other.ariaSort = other === header ? order : "none";
  const column = headers.indexOf(header);
  const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
  const isLast = (row) => value(row) === "nan" || value(row) === ""; // in either direction
  const sign = order === "ascending" ? 1 : -1;
  rows.sort((a, b) => isLast(a) - isLast(b) || sign * compare(value(a), value(b)));
  body.append(...rows);
  open?.row.after(open.detail);
}

// Filtering

const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));

function filterRows() {
  const text = filters.text.value.trim().toLowerCase();
  const verdict = filters.verdict.value;
  const group = filters.group?.value ?? "";
  for (const row of rows) {
    row.hidden = !(
      texts.get(row).includes(text) &&
      (verdict === "" || row.dataset.verdict === verdict) &&
      (group === "" || row.dataset.group === group)
    );
  }
  const visible = rows.filter((row) => !row.hidden);
  document.getElementById("count").textContent =
    visible.length === rows.length ? `${rows.length} clips` : `${visible.length} of ${rows.length} clips`;
  if (open?.row.hidden) closeClip();
  // One name is reached by the Tab key; the arrow keys go on from there.
  if (!visible.some((row) => nameButton(row).tabIndex === 0) && visible.length) setTabStop(visible[0]);
}

function setTabStop(row) {
  for (const other of rows) nameButton(other).tabIndex = other === row ? 0 : -1;
}

// The clip that is open

function closeClip() {
  nameButton(open.row).ariaExpanded = "false";
  for (const player of open.players) player.close();
  open.detail.remove();
  open = null;
}

function openClip(row) {
  if (open) closeClip();
  const detail = document.createElement("tr");
  detail.className = "detail";
  const cell = detail.insertCell();
  cell.colSpan = headers.length;
  row.after(detail);
  nameButton(row).ariaExpanded = "true";
  const { media, normal, normalName, verdict } = row.dataset;
  const players = [];
  if (media) {
    players.push(makePlayer(nameButton(row).textContent, read(media)));
    if (normal) players.push(makePlayer(`nearest normal clip: ${normalName}`, read(normal)));
    cell.append(...players.map((player) => player.element));
  } else {
    cell.textContent =
      verdict === "unreadable"
        ? "This clip could not be read."
        : "This clip has no player: only the most anomalous ones do.";
  }
  open = { row, detail, players };
  for (const { audio } of players) {
    audio.addEventListener("play", () => {
      for (const other of players) if (other.audio !== audio) other.audio.pause();
    });
  }
  detail.scrollIntoView({ block: "nearest" });
}

function toggleClip(row) {
  setTabStop(row);
  if (open?.row === row) closeClip();
  else openClip(row);
}

function makePlayer(caption, media) {
  const element = document.getElementById("player").content.firstElementChild.cloneNode(true);
  const find = (selector) => element.querySelector(selector);
  const audio = find("audio");
  find("figcaption").textContent = caption;
  if (!media.sound) {
    find("figcaption").append(" (its recording is not there)");
    for (const part of [...element.children].slice(1)) part.remove();
    return { element, audio, close() {} };
  }

  const bytes = Uint8Array.from(atob(media.sound), (character) => character.charCodeAt(0));
  const url = URL.createObjectURL(new Blob([bytes], MP3));
  audio.src = url;
  audio.ariaLabel = caption;
  find("img").src = media.picture;
  find("img").alt = `Spectrogram of ${caption}`;
  for (const [text, height] of page.ticks) addTick(find(".hertz"), text, height);
  const start = media.start ?? 0; // of a window, in seconds of its clip
  for (let second = 0; second <= page.seconds; second += tickStep(page.seconds)) {
    addTick(find(".seconds"), `${Number((start + second).toFixed(2))} s`, second / page.seconds);
  }

  const seek = (time) => {
    audio.currentTime = time;
  };
  find(".spectrogram").addEventListener("click", (event) => {
    const box = event.currentTarget.getBoundingClientRect();
    seek((page.seconds * (event.clientX - box.left)) / box.width);
  });
  if (media.map) {
    drawMap(find("canvas"), media.map);
    find(".overlay input").addEventListener("change", (event) => {
      find("canvas").hidden = !event.target.checked;
    });
    for (const [i, { time, value, band }] of media.moments.entries()) {
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.time = time;
      button.textContent = `${i + 1}: ${(start + time).toFixed(1)} s, ${band}, ${Number(value.toPrecision(3))}`;
      button.addEventListener("click", () => {
        seek(time);
        audio.play();
      });
      find(".moments").append(button);
      addTick(find(".marks"), i + 1, time / page.seconds);
    }
  } else {
    find(".overlay").remove();
  }
  if (!media.map) {
    find(".moments").remove();
  } else if (!media.moments.length) {
    find(".moments").textContent =
      `Nothing in the map is above the threshold: its highest value is ${media.highest.toFixed(2)}, and 1 is the threshold.`;
  }

  const movePlayhead = () => {
    find(".playhead").style.left = `${Math.min(100, (100 * audio.currentTime) / page.seconds)}%`;
    if (!audio.paused && !reducedMotion.matches) requestAnimationFrame(movePlayhead);
  };
  for (const type of ["play", "timeupdate", "seeked"]) audio.addEventListener(type, movePlayhead);
  const close = () => {
    audio.pause();
    audio.removeAttribute("src");
    URL.revokeObjectURL(url);
  };
  return { element, audio, close };
}

function addTick(axis, text, share) {
  const tick = document.createElement("span");
  tick.textContent = text;
  tick.style.setProperty("--at", `${100 * share}%`);
  axis.append(tick);
}

function tickStep(seconds) {
  return [0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60].find((step) => seconds / step <= 6) ?? 600;
}

// The map is one pixel a patch: clear up to 1, the threshold, then on a logarithmic scale from
// yellow to red. The scale is the same for all clips: red is page.mapTop and more.
function drawMap(canvas, map) {
  canvas.width = map.length;
  canvas.height = map[0].length;
  const context = canvas.getContext("2d");
  map.forEach((bands, time) => {
    bands.forEach((value, band) => {
      if (value <= 1) return;
      const share = Math.min(1, Math.log(value) / Math.log(page.mapTop));
      context.fillStyle = `rgb(${240 - 75 * share} ${190 - 190 * share} 40 / ${40 + 20 * share}%)`;
      context.fillRect(time, canvas.height - 1 - band, 1, 1);
    });
  });
}

// Mouse and keyboard

for (const header of headers) header.firstChild.addEventListener("click", () => sortBy(header));
filters.text.addEventListener("input", filterRows);
filters.verdict.addEventListener("change", filterRows);
filters.group?.addEventListener("change", filterRows);
body.addEventListener("click", (event) => {
  const row = event.target.closest("tr.clip");
  if (row) toggleClip(row);
});

function moveFocus(row, step) {
  const visible = rows.filter((other) => !other.hidden);
  const next = visible[visible.indexOf(row) + step];
  if (!next) return;
  setTabStop(next);
  nameButton(next).focus();
}

function togglePlay() {
  const audio = open.players[0].audio;
  if (audio.paused) audio.play();
  else audio.pause();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const { target, key } = event;
  const row = target.closest("tr.clip");
  const audio = open?.players[0]?.audio;
  const isFree = row !== null || target === document.body;
  const step = { ArrowUp: -1, ArrowDown: 1 }[key];
  if (key === "/" && !target.matches("input[type=search]")) {
    filters.text.focus();
  } else if (step && row) {
    moveFocus(row, step);
  } else if (key === " " && isFree && audio) {
    togglePlay();
  } else if ((key === "ArrowLeft" || key === "ArrowRight") && isFree && audio) {
    audio.currentTime += key === "ArrowLeft" ? -1 : 1;
  } else if (key === "Escape" && open && !target.matches("input[type=search]")) {
    const button = nameButton(open.row);
    closeClip();
    button.focus();
  } else {
    return;
  }
  event.preventDefault();
});
// Firefox presses a button when the space key comes up again.
document.addEventListener("keyup", (event) => {
  if (event.key === " " && open?.players.length && event.target.closest("tr.clip")) event.preventDefault();
});

filterRows();
