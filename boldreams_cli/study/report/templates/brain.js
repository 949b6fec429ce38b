"use strict";
// Brain maps to look around in: three slices through one cursor, values as they are, nothing from outside the page.
(() => {
  const MISSING = -32768;
  const PLANES = { axial: [0, 1, 2], coronal: [0, 2, 1], sagittal: [1, 2, 0] }; // across, up, through
  const ENDS = [["L", "R"], ["P", "A"], ["I", "S"]];
  const INKS = ["#ffffff", "#ffd166", "#7ce0ff", "#ff9ecb", "#b7f58a", "#ffb27a", "#c9b6ff", "#8ff0d0"];

  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const clamp = (value, top) => Math.max(0, Math.min(top, value));
  const minus = (text) => text.replace("-", "\u2212");

  class Viewer {
    constructor(figure) {
      this.figure = figure;
      const data = JSON.parse(figure.querySelector("script[type='application/json']").textContent);
      Object.assign(this, { shape: data.shape, sizes: data.sizes, affine: data.affine, axes: data.axes, flipped: data.flipped });
      this.voxels = new Uint32Array(bytes(data.voxels).buffer);
      this.slot = new Int32Array(this.shape[0] * this.shape[1] * this.shape[2]).fill(-1);
      this.voxels.forEach((place, index) => { this.slot[place] = index; });
      this.areas = data.areas.map((area) => ({ name: area.name, bits: bytes(area.bits) }));
      this.maps = data.maps.map((map) => ({ ...map, values: new Int16Array(bytes(map.values).buffer) }));
      this.colours = Object.fromEntries(Object.entries(data.colours).map(([name, text]) => [name, bytes(text)]));
      this.map = this.maps[0];
      this.outline = "all";
      this.threshold = -Infinity;
      this.first = new Int16Array(this.voxels.length).fill(-1); // of the areas of a voxel, the first
      for (let index = 0; index < this.voxels.length; index++) {
        this.first[index] = this.areas.findIndex((area) => this.inside(area, index));
      }
      this.cursor = this.place(this.highest());
      this.listen();
      this.loadBackground(data.background);
      this.choose(0);
    }

    inside(area, index) { return ((area.bits[index >> 3] >> (7 - (index & 7))) & 1) === 1; }

    place(index) {
      const place = this.voxels[index], [width, height] = this.shape;
      return [place % width, Math.floor(place / width) % height, Math.floor(place / (width * height))];
    }

    index([x, y, z]) { return this.slot[x + this.shape[0] * (y + this.shape[1] * z)]; }

    value(index) {
      const multiple = index < 0 ? MISSING : this.map.values[index];
      return multiple === MISSING ? null : Number((multiple * 10 ** this.map.exponent).toFixed(Math.max(0, -this.map.exponent)));
    }

    highest() {
      let best = 0;
      this.map.values.forEach((multiple, index) => { if (multiple > this.map.values[best]) best = index; });
      return best;
    }

    loadBackground({ across, uri }) {
      const image = new Image();
      image.onload = () => {
        const sheet = document.createElement("canvas");
        [sheet.width, sheet.height] = [image.width, image.height];
        const context = sheet.getContext("2d", { willReadFrequently: true });
        context.drawImage(image, 0, 0);
        const pixels = context.getImageData(0, 0, image.width, image.height).data, [width, height] = this.shape;
        this.grey = (x, y, z) => pixels[4 * ((Math.floor(z / across) * height + y) * image.width + (z % across) * width + x)];
        this.draw();
      };
      image.src = uri;
    }

    listen() {
      const one = (css) => this.figure.querySelector(css);
      one(".map").onchange = (event) => this.choose(Number(event.target.value));
      one(".outline").onchange = (event) => { this.outline = event.target.value; this.draw(); };
      one(".threshold").oninput = (event) => {
        this.threshold = event.target.value === "" ? -Infinity : Number(event.target.value);
        this.draw();
      };
      one(".peak").onclick = () => this.move(this.place(this.highest()));
      [0, 1, 2].forEach((axis) => {
        one(`.axis${axis}`).oninput = (event) => {
          const to = [...this.cursor];
          to[axis] = Number(event.target.value);
          this.move(to);
        };
      });
      Object.entries(PLANES).forEach(([name, plane]) => this.listenTo(one(`canvas.${name}`), plane));
    }

    listenTo(canvas, [across, up, through]) {
      const point = (event) => {
        const box = canvas.getBoundingClientRect(), to = [...this.cursor];
        to[across] = clamp(Math.floor(((event.clientX - box.left) / box.width) * this.shape[across]), this.shape[across] - 1);
        to[up] = clamp(Math.floor((1 - (event.clientY - box.top) / box.height) * this.shape[up]), this.shape[up] - 1);
        this.move(to);
      };
      canvas.onpointerdown = (event) => { canvas.setPointerCapture(event.pointerId); point(event); };
      canvas.onpointermove = (event) => { if (event.buttons) point(event); };
      const steps = { ArrowLeft: [across, -1], ArrowRight: [across, 1], ArrowUp: [up, 1], ArrowDown: [up, -1], PageUp: [through, 1], PageDown: [through, -1] };
      canvas.onkeydown = (event) => {
        const step = steps[event.key];
        if (!step || event.altKey || event.ctrlKey || event.metaKey) return;
        event.preventDefault();
        const to = [...this.cursor];
        to[step[0]] = clamp(to[step[0]] + step[1], this.shape[step[0]] - 1);
        this.move(to);
      };
    }

    choose(number) {
      this.map = this.maps[number];
      const digits = Math.max(0, Math.min(2, -this.map.exponent)), [low, high] = this.map.limits;
      this.figure.querySelector(".low").textContent = minus(low.toFixed(digits));
      this.figure.querySelector(".high").textContent = minus(high.toFixed(digits));
      this.figure.querySelector(".unit").textContent = this.map.unit;
      const canvas = this.figure.querySelector("canvas.colours"), context = canvas.getContext("2d");
      const strip = context.createImageData(256, 1), table = this.colours[this.map.colours];
      for (let step = 0; step < 256; step++) strip.data.set([table[3 * step], table[3 * step + 1], table[3 * step + 2], 255], 4 * step);
      context.putImageData(strip, 0, 0);
      this.move(this.cursor);
    }

    move(to) {
      this.cursor = to;
      to.forEach((value, axis) => { this.figure.querySelector(`.axis${axis}`).value = value; });
      this.say();
      this.draw();
    }

    say() {
      const index = this.index(this.cursor), value = this.value(index), file = [0, 0, 0];
      this.axes.forEach((axis, mine) => { file[axis] = this.flipped[mine] ? this.shape[mine] - 1 - this.cursor[mine] : this.cursor[mine]; });
      const mm = this.affine.slice(0, 3).map((row) => row[3] + this.cursor.reduce((sum, place, axis) => sum + row[axis] * place, 0));
      const names = index < 0 ? [] : this.areas.filter((area) => this.inside(area, index)).map((area) => area.name);
      const digits = Math.max(0, -this.map.exponent);
      const text = index < 0 ? "no voxel of the models here" : value === null ? "not known" : minus(value.toFixed(digits));
      const said = this.figure.querySelector(".value"), bold = document.createElement("b");
      bold.textContent = text;
      said.replaceChildren(bold, ` ${index < 0 || value === null ? "" : this.map.unit + " "}\u00b7 ${names.join(", ") || "no area"} \u00b7 voxel ${file.join(", ")} \u00b7 ${minus(mm.map((part) => part.toFixed(1)).join(", ")).replaceAll("-", "\u2212")} mm`);
      said.dataset.value = value === null ? "" : String(value);
      said.dataset.voxel = file.join(",");
      said.dataset.areas = names.join(",");
    }

    colour(index, pixels, at, level) {
      const value = this.value(index), [low, high] = this.map.limits, table = this.colours[this.map.colours];
      if (value === null || value < this.threshold) {
        pixels.set([level, level, level, 255], at);
        return;
      }
      const step = 3 * clamp(Math.round((255 * (value - low)) / (high - low)), 255);
      pixels.set([table[step], table[step + 1], table[step + 2], 255], at);
    }

    draw() {
      Object.entries(PLANES).forEach(([name, plane]) => this.drawPlane(this.figure.querySelector(`canvas.${name}`), plane));
    }

    drawPlane(canvas, [across, up, through]) {
      const width = this.shape[across], height = this.shape[up], zoom = Math.max(3, Math.ceil(480 / width));
      const slice = document.createElement("canvas");
      [slice.width, slice.height] = [width, height];
      const pixels = new ImageData(width, height), at = [...this.cursor];
      const indices = new Int32Array(width * height);
      for (let v = 0; v < height; v++) {
        for (let u = 0; u < width; u++) {
          [at[across], at[up]] = [u, v];
          const target = (height - 1 - v) * width + u, index = this.index(at);
          indices[target] = index;
          this.colour(index, pixels.data, 4 * target, this.grey ? this.grey(...at) : 0);
        }
      }
      slice.getContext("2d").putImageData(pixels, 0, 0);
      const tall = Math.round((zoom * height * this.sizes[up]) / this.sizes[across]);
      [canvas.width, canvas.height] = [zoom * width, tall];
      const context = canvas.getContext("2d");
      context.imageSmoothingEnabled = false;
      context.drawImage(slice, 0, 0, canvas.width, canvas.height);
      if (this.outline !== "none") this.drawOutline(context, indices, width, height, zoom, tall / height);
      this.drawCross(context, canvas, across, up, zoom, tall / height);
      context.fillStyle = "#fff";
      context.font = "bold 20px system-ui, sans-serif";
      context.textBaseline = "middle";
      const [left, right] = ENDS[across], [bottom, top] = ENDS[up];
      context.fillText(left, 6, canvas.height / 2);
      context.fillText(right, canvas.width - 22, canvas.height / 2);
      context.fillText(top, canvas.width / 2 - 7, 16);
      context.fillText(bottom, canvas.width / 2 - 7, canvas.height - 14);
    }

    drawCross(context, canvas, across, up, wide, tall) {
      const x = (this.cursor[across] + 0.5) * wide, y = canvas.height - (this.cursor[up] + 0.5) * tall;
      context.strokeStyle = "rgba(255, 255, 255, .75)";
      context.lineWidth = 1;
      context.beginPath();
      [[0, y, x - wide, y], [x + wide, y, canvas.width, y], [x, 0, x, y - tall], [x, y + tall, x, canvas.height]].forEach(([a, b, c, d]) => { context.moveTo(a, b); context.lineTo(c, d); });
      context.stroke();
    }

    drawOutline(context, indices, width, height, wide, tall) {
      const chosen = this.outline === "all" ? null : this.areas[Number(this.outline)];
      const label = (u, v) => {
        const index = u < 0 || v < 0 || u >= width || v >= height ? -1 : indices[v * width + u];
        if (index < 0) return -1;
        return chosen ? (this.inside(chosen, index) ? 0 : -1) : this.first[index];
      };
      context.lineWidth = 2;
      for (let v = 0; v < height; v++) {
        for (let u = 0; u < width; u++) {
          const mine = label(u, v);
          if (mine < 0) continue;
          context.strokeStyle = INKS[mine % INKS.length];
          context.beginPath();
          const [x, y] = [u * wide, v * tall];
          [[-1, 0, x + 1, y, x + 1, y + tall], [1, 0, x + wide - 1, y, x + wide - 1, y + tall], [0, -1, x, y + 1, x + wide, y + 1], [0, 1, x, y + tall - 1, x + wide, y + tall - 1]].forEach(([du, dv, a, b, c, d]) => {
            if (label(u + du, v + dv) !== mine) { context.moveTo(a, b); context.lineTo(c, d); }
          });
          context.stroke();
        }
      }
    }
  }

  document.documentElement.classList.add("js");
  const figures = [...document.querySelectorAll("figure.brain")].filter((figure) => figure.querySelector(".viewer"));
  const start = (figure) => { if (!figure.viewer) figure.viewer = new Viewer(figure); };
  // Each is built when it is about to be seen: a page of four subjects opens at once.
  const watch = new IntersectionObserver((entries) => entries.forEach((entry) => { if (entry.isIntersecting) start(entry.target); }), { rootMargin: "400px" });
  figures.forEach((figure) => watch.observe(figure));

  // What is folded is printed all the same.
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details:not([open])")];
    folded.forEach((details) => { details.open = true; });
  });
  addEventListener("afterprint", () => folded.forEach((details) => { details.open = false; }));
})();
