// What a clip needs, its picture, sound and map, lies in a JSON element and becomes an image and
// a player only when its row is opened, so that a page of many clips stays light.

const MP3 = { type: "audio/mpeg" };
const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");
const page = read("page");

function read(id) {
  return JSON.parse(document.getElementById(id).textContent);
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
  const play = (time) => {
    seek(time);
    audio.play();
  };
  if (media.words) {
    listWords(find(".words"), find(".events"), media.words, start, play);
  } else {
    find(".words").remove();
  }
  drawSpectrum(find(".spectrum"), media, caption);
  find(".spectrogram").addEventListener("click", (event) => {
    const box = event.currentTarget.getBoundingClientRect();
    seek((page.seconds * (event.clientX - box.left)) / box.width);
  });
  const isAbove = media.map && media.highest > 1;
  if (isAbove) {
    drawMap(find("canvas"), media.map);
    drawLegend(find(".legend"));
    find(".overlay input").addEventListener("change", (event) => {
      find("canvas").hidden = !event.target.checked;
    });
    listMoments(find(".moments"), find(".marks"), media.moments, start, play);
  } else {
    find("canvas").remove();
    find(".overlay").remove(); // it would show nothing
  }
  if (!media.map) {
    find(".moments").remove();
  } else if (!isAbove) {
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

// A line for each band: its times are buttons, and marks on the spectrogram with its number.
function listMoments(list, marks, moments, start, play) {
  for (const [i, { band, value, is_steady, times, more }] of moments.entries()) {
    const line = document.createElement("div");
    line.append(`${i + 1}: ${band}, ${is_steady ? "" : "up to "}${Number(value.toPrecision(3))}`);
    if (is_steady) line.append(" over the whole clip");
    if (times.length) line.append(is_steady ? ", most at" : " at");
    for (const [from, to] of times) {
      const words = `${(start + from).toFixed(1)} to ${(start + to).toFixed(1)} s`;
      line.append(" ", playButton(words, from, play));
      addTick(marks, i + 1, from / page.seconds);
    }
    if (more) line.append(` and ${more} more times`);
    list.append(line);
  }
}

// The map is one pixel a patch: clear up to 1, the threshold, then on a logarithmic scale from
// yellow to red. The scale is the same for all clips: red is page.mapTop and more.
function colourOf(value) {
  const share = Math.min(1, Math.log(value) / Math.log(page.mapTop));
  return `rgb(${240 - 75 * share} ${190 - 190 * share} 40 / ${40 + 20 * share}%)`;
}

function drawMap(canvas, map) {
  canvas.width = map.length;
  canvas.height = map[0].length;
  const context = canvas.getContext("2d");
  map.forEach((bands, time) => {
    bands.forEach((value, band) => {
      if (value <= 1) return;
      context.fillStyle = colourOf(value);
      context.fillRect(time, canvas.height - 1 - band, 1, 1);
    });
  });
}

function drawLegend(canvas) {
  const context = canvas.getContext("2d");
  for (let x = 0; x < canvas.width; x++) {
    context.fillStyle = colourOf(page.mapTop ** (x / (canvas.width - 1)));
    context.fillRect(x, 0, 1, 1);
  }
}

function playButton(text, time, play) {
  const button = document.createElement("button");
  button.type = "button";
  button.dataset.time = time;
  button.textContent = text;
  button.addEventListener("click", () => play(time));
  return button;
}

// Why a clip has its score: each sentence with buttons that play what it is about, and with a
// letter that marks it below the spectrogram.
function listWords(list, marks, words, start, play) {
  let letter = "a".charCodeAt(0);
  for (const { text, times } of words) {
    const item = document.createElement("li");
    item.append(text);
    if (times.length) {
      const name = String.fromCharCode(letter++);
      item.prepend(`${name}: `);
      for (const time of times) {
        item.append(" ", playButton(`${(start + time).toFixed(1)} s`, time, play));
        addTick(marks, name, time / page.seconds);
      }
    }
    list.append(item);
  }
}

// The spectrum of a clip over the range of the normal ones, on one scale for all clips.
const [LEFT, RIGHT, TOP, BOTTOM] = [34, 334, 18, 150]; // in units of the picture

function drawSpectrum(picture, media, caption) {
  const make = (name, attributes, text = "") => {
    const element = document.createElementNS(picture.namespaceURI, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(text);
    return element;
  };
  const { places, lowest, highest, levels } = page.spectra;
  const [low, high] = levels;
  const x = (place) => (LEFT + place * (RIGHT - LEFT)).toFixed(1);
  const y = (level) => {
    const share = (level - low) / (high - low || 1);
    return (BOTTOM - Math.min(1, Math.max(0, share)) * (BOTTOM - TOP)).toFixed(1);
  };
  const points = (values) => places.map((place, i) => `${x(place)},${y(values[i])}`);
  picture.ariaLabel = `Spectrum of ${caption} over the range of the normal clips`;
  for (const [from, to] of media.bands) {
    const width = Math.max(2, x(to) - x(from));
    picture.append(make("rect", { class: "event", x: x(from), y: TOP, width, height: BOTTOM - TOP }));
  }
  const range = [...points(highest), ...points(lowest).reverse()].join(" ");
  picture.append(make("polygon", { class: "range", points: range }));
  picture.append(make("polyline", { class: "own", points: points(media.spectrum).join(" ") }));
  picture.append(make("polyline", { class: "frame", points: `${LEFT},${TOP} ${LEFT},${BOTTOM} ${RIGHT},${BOTTOM}` }));
  page.ticks.forEach(([label, place], i) => {
    if (i % 2 && place < 0.95) return; // every other one fits on a phone
    const anchor = place > 0.95 ? "end" : "middle";
    picture.append(make("text", { x: x(place), y: BOTTOM + 15, "text-anchor": anchor }, label));
  });
  const step = [10, 20, 50, 100].find((size) => (high - low) / size <= 5) ?? 200;
  for (let level = Math.ceil(low / step) * step; level <= high; level += step) {
    picture.append(make("text", { x: LEFT - 4, y: Number(y(level)) + 4, "text-anchor": "end" }, level));
  }
  picture.append(make("text", { x: 0, y: 11 }, "dB: this clip (line), normal clips (area), what is unlike (orange)"));
}
