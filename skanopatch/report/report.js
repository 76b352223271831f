// The table of clips: sorting, filtering, opening, marking, and the keyboard.

const body = document.querySelector("#clips tbody");
const rows = [...body.rows];
const headers = [...document.querySelectorAll("#clips th[data-first]")];
const filters = {
  text: document.getElementById("filter"),
  verdict: document.getElementById("verdict"),
  group: document.getElementById("group"), // null where there are no groups
};
let open = null; // { row, detail, players } of the clip that is open

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
  cell.colSpan = row.cells.length;
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

// Clips that somebody listened to: what they were, and tables of it

const labels = new Map(); // from rows to "normal" or "anomaly"
const reviewed = document.getElementById("reviewed");

function review(row, label) {
  if (labels.get(row) === label) labels.delete(row);
  else labels.set(row, label);
  for (const button of row.querySelectorAll(".review button")) {
    button.ariaPressed = String(button.dataset.label === labels.get(row));
  }
  const n = { normal: 0, anomaly: 0 };
  for (const value of labels.values()) n[value]++;
  reviewed.hidden = !labels.size;
  reviewed.querySelector("output").textContent = `${n.normal} fine, ${n.anomaly} broken`;
  reviewed.querySelector("[data-file='normal.txt']").disabled = !n.normal;
}

const quote = (text) => (/[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);

function tableOf(file) {
  const marked = rows.filter((row) => labels.has(row)).map((row) => [nameButton(row).textContent, labels.get(row)]);
  const lines =
    file === "normal.txt"
      ? marked.filter(([, label]) => label === "normal").map(([name]) => name)
      : [["file", "label"], ...marked].map((cells) => cells.map(quote).join(","));
  return lines.map((line) => `${line}\n`).join("");
}

function save(file) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([tableOf(file)], { type: "text/plain" }));
  link.download = file;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

for (const button of reviewed.querySelectorAll("button")) {
  button.addEventListener("click", () => save(button.dataset.file));
}

// The pictures of the summary lead to the table

for (const button of document.querySelectorAll("[data-machine]")) {
  button.addEventListener("click", () => {
    filters.group.value = button.dataset.machine;
    filterRows();
    document.getElementById("clips").scrollIntoView();
  });
}
for (const dot of document.querySelectorAll(".points circle")) {
  dot.addEventListener("click", () => {
    const row = rows.find((other) => other.dataset.rank === dot.dataset.rank);
    setTabStop(row);
    if (open?.row !== row) openClip(row);
    row.scrollIntoView({ block: "start" });
  });
}

// Mouse and keyboard

for (const header of headers) header.firstChild.addEventListener("click", () => sortBy(header));
filters.text.addEventListener("input", filterRows);
filters.verdict.addEventListener("change", filterRows);
filters.group?.addEventListener("change", filterRows);
body.addEventListener("click", (event) => {
  const row = event.target.closest("tr.clip");
  if (!row) return;
  const mark = event.target.closest(".review button");
  if (mark) review(row, mark.dataset.label);
  else if (!event.target.closest(".review")) toggleClip(row); // a tap that missed opens nothing
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
  const label = { f: "normal", b: "anomaly" }[key.toLowerCase()];
  if (key === "/" && !target.matches("input[type=search]")) {
    filters.text.focus();
  } else if (step && row) {
    moveFocus(row, step);
  } else if (label && row) {
    review(row, label);
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
