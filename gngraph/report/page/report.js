"use strict";
// Fig. 2: a canvas a channel space, a cell a channel, redrawn as the slider moves. No library: 110,000 cells are arrays and rectangles.
(() => {
  const bytes = (text) => {
    const letters = atob(text);
    const found = new Uint8Array(letters.length);
    for (let i = 0; i < letters.length; i++) found[i] = letters.charCodeAt(i);
    return found.buffer;
  };

  // IEEE 754 half floats: sign, 5 bits of exponent, 10 of fraction.
  const POWERS = Float64Array.from({ length: 32 }, (_, exponent) => 2 ** (exponent - 15));
  const halves = ({ scale, data }) => {
    const halfs = new Uint16Array(bytes(data));
    const found = new Float32Array(halfs.length);
    for (let i = 0; i < halfs.length; i++) {
      const exponent = (halfs[i] >> 10) & 31;
      const fraction = halfs[i] & 1023;
      const size = exponent === 31 ? NaN : exponent ? POWERS[exponent] * (1 + fraction / 1024) : 2 ** -24 * fraction;
      found[i] = (halfs[i] & 0x8000 ? -scale : scale) * size;
    }
    return found;
  };

  const number = (value, digits = 3) => {
    if (value === 0) return "0";
    const size = Math.abs(value);
    const text = size >= 1e-4 && size < 1e5 ? Number(value.toPrecision(digits)).toString() : value.toExponential(digits - 1);
    return text.replace("-", "−");
  };
  const signed = (value) => (value > 0 ? "+" : "") + number(value);
  const count = (value) => value.toLocaleString("en-US");
  const plural = (n, one, many = one + "s") => `${count(n)} ${n === 1 ? one : many}`;

  const [STAYS, SPLIT, GONE] = [0, 1, 2];
  const SHADES = 16; // on either side of neither
  const LEVELS = 2 * SHADES + 1;
  const FROZEN = 6 * LEVELS;
  const CROSS = FROZEN + 1;

  // Who every channel is, from frame to frame: a copy stands behind what it was split from, what is new at the end.
  class Row {
    constructor(name, frames, index, data) {
      this.name = name;
      this.frames = []; // per frame null, or {entry, at, order, who, first, next}
      this.people = []; // who -> {frame, kind: "seed" | "split" | "new", channel, parent}
      this.most = 0;
      let last = null;
      frames.forEach((frame, f) => {
        const entry = frame.rows[index];
        if (!entry) {
          this.frames.push((last = null));
          return;
        }
        const { size } = entry;
        const at = data.starts[f][index];
        const who = new Int32Array(size);
        const source = (channel) => (last ? data.source[at + channel] : -1);
        // the copies of each channel before, as lists: the first of them is still itself
        const first = new Int32Array(last ? last.entry.size : 0).fill(-1);
        const next = new Int32Array(size).fill(-1);
        for (let c = size - 1; c >= 0; c--) {
          if (source(c) < 0) continue;
          next[c] = first[source(c)];
          first[source(c)] = c;
        }
        for (let c = 0; c < size; c++) {
          const from = source(c);
          if (from < 0) {
            const kind = f === 0 || entry.frozen ? "seed" : "new";
            who[c] = this.people.push({ frame: f, kind, channel: c, parent: -1 }) - 1;
          } else if (first[from] === c) who[c] = last.who[from];
          else who[c] = this.people.push({ frame: f, kind: "split", channel: from, parent: last.who[from] }) - 1;
        }
        const order = new Int32Array(size);
        let done = 0;
        if (last) for (const before of last.order) for (let c = first[before]; c >= 0; c = next[c]) order[done++] = c;
        for (let c = 0; c < size; c++) if (source(c) < 0) order[done++] = c;
        if (last) [last.first, last.next] = [first, next];
        last = { entry, at, order, who, first: null, next: null };
        this.frames.push(last);
        this.most = Math.max(this.most, size + (entry.new ? 1 : 0));
      });
    }

    root(who) {
      while (this.people[who].parent >= 0) who = this.people[who].parent;
      return who;
    }

    fate(f, channel) {
      const { first, next, entry } = this.frames[f];
      if (!first || entry.frozen) return STAYS;
      return first[channel] < 0 ? GONE : next[first[channel]] < 0 ? STAYS : SPLIT;
    }

    isFresh(f, channel) {
      const { frame, kind } = this.people[this.frames[f].who[channel]];
      return kind !== "seed" && frame === f;
    }

    // What each cell of a frame looks like, in the order in which they stand: a number of the sheet of pictures.
    looks(f, data) {
      const here = this.frames[f];
      if (here.looks) return here.looks;
      const { size, new: fresh } = here.entry;
      const looks = (here.looks = new Uint16Array(size + (fresh ? 1 : 0)));
      if (fresh) looks[size] = SHADES + Math.ceil((fresh.value || 0) * SHADES);
      here.order.forEach((channel, i) => {
        const value = (data.value[here.at + channel] / 127) * SHADES;
        const shade = SHADES + (value > 0 ? Math.ceil(value) : Math.floor(value));
        const isNew = this.isFresh(f, channel) ? 1 : 0;
        looks[i] = here.entry.frozen ? FROZEN : shade + LEVELS * (this.fate(f, channel) + 3 * isNew);
      });
      return here.looks;
    }
  }

  const unpack = (data) => {
    for (const name of ["split_gain", "split_error", "prune_gain", "prune_error"]) data[name] = halves(data[name]);
    data.value = new Int8Array(bytes(data.value));
    data.source = new Int32Array(bytes(data.source));
    let at = 0;
    data.starts = data.frames.map((frame) => frame.rows.map((row) => (row ? (at += row.size) - row.size : -1)));
    data.rows = data.names.map((name, index) => new Row(name, data.frames, index, data));
    return data;
  };

  const mix = (from, to, share) => `rgb(${from.map((c, i) => Math.round(c + (to[i] - c) * share)).join(",")})`;
  const channelsOf = (colour) => colour.match(/[\d.]+/g).slice(0, 3).map(Number);

  class Figure {
    constructor(element) {
      this.element = element;
      this.data = unpack(JSON.parse(element.querySelector("script").textContent));
      const find = (name) => element.querySelector(`.${name}`);
      this.slider = find("slider");
      this.caption = find("caption");
      this.facts = find("facts");
      this.list = find("spaces");
      this.tip = find("tip");
      this.live = find("live");
      this.play = find("play");
      this.cursor = null; // {row, place}: what is looked at
      this.pinned = null; // {row, root}
      this.frame = 0;
      this.slider.max = this.data.frames.length - 1;
      this.build();
      this.listen();
      this.palette();
      this.fit();
      this.go(Math.min(1, this.data.frames.length - 1));
    }

    build() {
      this.lines = this.data.rows.map((row, index) => {
        const line = document.createElement("div");
        line.className = "space";
        const label = document.createElement("div");
        label.className = "label";
        const name = document.createElement("span");
        name.className = "name";
        name.textContent = row.name;
        name.title = row.name;
        const width = document.createElement("span");
        width.className = "width";
        label.append(name, width);
        const canvas = document.createElement("canvas");
        canvas.dataset.row = index;
        line.append(label, canvas);
        this.list.append(line);
        return { line, width, canvas, context: canvas.getContext("2d", { willReadFrequently: true }) };
      });
    }

    listen() {
      this.slider.addEventListener("input", () => this.go(Number(this.slider.value)));
      this.play.addEventListener("click", () => this.toggle());
      this.list.addEventListener("pointermove", (event) => this.point(event));
      this.list.addEventListener("pointerleave", () => this.look(null));
      this.list.addEventListener("click", (event) => (this.point(event), this.pin()));
      this.list.addEventListener("keydown", (event) => this.key(event));
      this.list.addEventListener("blur", () => this.look(null));
      new ResizeObserver(() => this.fit() && this.draw()).observe(this.list);
      matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => (this.palette(), this.draw()));
    }

    palette() {
      const probe = document.createElement("i");
      this.element.append(probe);
      const read = (name) => {
        probe.style.color = `var(--${name})`;
        return channelsOf(getComputedStyle(probe).color);
      };
      const [cell, split, prune, ink, fresh, faint] = ["cell", "split", "prune", "ink", "fresh", "faint"].map(read);
      probe.remove();
      const css = (colour) => `rgb(${colour.join(",")})`;
      this.colours = { ink: css(ink), fresh: css(fresh), faint: css(faint) };
      this.shades = Array.from({ length: LEVELS }, (_, i) => {
        const strength = (i - SHADES) / SHADES;
        return strength ? mix(cell, strength > 0 ? split : prune, 0.25 + 0.75 * Math.abs(strength)) : css(cell);
      });
      this.sheet = null;
    }

    // Sizes of the cells, the same in every frame, so that nothing jumps as the slider moves.
    fit() {
      const room = Math.floor(this.lines[0].canvas.parentElement.clientWidth - this.indent());
      const ratio = devicePixelRatio || 1;
      if (room < 20 || (room === this.room && ratio === this.ratio)) return false;
      [this.room, this.ratio] = [room, ratio];
      const most = Math.max(...this.data.rows.map((row) => row.most));
      this.pixels = Math.round(Math.max(7, Math.min(24, Math.floor(room / most))) * ratio);
      this.size = this.pixels / ratio;
      this.across = Math.max(1, Math.floor(room / this.size));
      this.data.rows.forEach((row, index) => {
        const line = this.lines[index];
        const high = Math.max(1, Math.ceil(row.most / this.across));
        const wide = Math.min(row.most, this.across);
        line.canvas.width = wide * this.pixels;
        line.canvas.height = high * this.pixels;
        line.canvas.style.width = `${wide * this.size}px`;
        line.canvas.style.height = `${high * this.size}px`;
        line.strip = line.context.createImageData(line.canvas.width, line.canvas.height);
      });
      this.sheet = null;
      return true;
    }

    indent() {
      const style = getComputedStyle(this.lines[0].line);
      return style.display === "grid" && style.gridTemplateColumns.split(" ").length > 1
        ? this.lines[0].canvas.previousElementSibling.offsetWidth + parseFloat(style.columnGap)
        : 0;
    }

    go(frame) {
      this.frame = frame;
      this.slider.value = frame;
      const { kind, round, rounds } = this.data.frames[frame];
      const name = kind === "seed" ? "seed" : kind === "final" ? "grown network" : `round ${round} of ${rounds}`;
      this.slider.setAttribute("aria-valuetext", name);
      this.caption.textContent = name[0].toUpperCase() + name.slice(1);
      this.facts.textContent = this.describeFrame();
      this.element.querySelector(".back").disabled = frame === 0;
      this.element.querySelector(".on").disabled = frame === this.data.frames.length - 1;
      this.draw();
      if (this.cursor) this.look(this.cursor);
    }

    describeFrame() {
      const data = this.data.frames[this.frame];
      if (data.told) return data.told;
      const { params, accuracy, loss, kind } = data;
      const fates = [0, 0, 0];
      let [all, fresh] = [0, 0];
      for (const row of this.data.rows) {
        const here = row.frames[this.frame];
        if (!here || here.entry.frozen) continue;
        all += here.entry.size;
        for (let c = 0; c < here.entry.size; c++) {
          fates[row.fate(this.frame, c)] += 1;
          fresh += row.isFresh(this.frame, c);
        }
      }
      const parts = [plural(all, "channel")];
      if (params !== undefined) parts.push(plural(params, "parameter"));
      if (typeof accuracy === "number") parts.push(`held-out accuracy ${(100 * accuracy).toFixed(2)} %`);
      else if (typeof loss === "number") parts.push(`held-out loss ${number(loss)}`);
      if (fresh) parts.push(`${count(fresh)} new since the last rewrite`);
      if (kind === "round") {
        const next = [fates[SPLIT] && `splits ${count(fates[SPLIT])}`, fates[GONE] && `removes ${count(fates[GONE])}`];
        const words = next.filter(Boolean).join(" and ");
        parts.push(words ? `its rewrite ${words}` : "its rewrite splits and removes none");
      }
      return (data.told = parts.join(" · "));
    }

    draw() {
      if (!this.size) return;
      if (!this.sheet) this.sheet = this.drawSheet();
      this.data.rows.forEach((row, index) => this.drawRow(row, index));
    }

    drawRow(row, index) {
      const { line, width, canvas, context } = this.lines[index];
      const say = (text) => width.textContent === text || (width.textContent = text);
      const here = row.frames[this.frame];
      const before = this.frame ? row.frames[this.frame - 1] : null;
      context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
      context.clearRect(0, 0, canvas.width, canvas.height);
      if (!here) {
        const last = row.frames.slice(0, this.frame).filter(Boolean).at(-1);
        line.className = last ? "space gone" : "space absent";
        say(last ? "removed" : "not there yet");
        if (last) this.paint(this.lines[index], new Uint16Array(last.entry.size).fill(CROSS));
        return;
      }
      const { entry } = here;
      const change = before ? entry.size - before.entry.size : 0;
      line.className = entry.frozen ? "space frozen" : "space";
      say(entry.frozen ? `${count(entry.size)}, frozen` : count(entry.size) + (change ? ` (${signed(change)})` : ""));
      line.firstChild.title = entry.frozen ? `${row.name}: ${entry.frozen}` : entry.layers.join(", ");
      this.cells(this.lines[index], row, here);
    }

    place(i) {
      return [(i % this.across) * this.size, Math.floor(i / this.across) * this.size];
    }

    // Every look of a cell once, so that a strip is drawn by copying.
    drawSheet() {
      const sheet = document.createElement("canvas");
      sheet.width = (CROSS + 1) * this.pixels;
      sheet.height = this.pixels;
      const context = sheet.getContext("2d", { willReadFrequently: true });
      context.scale(this.ratio, this.ratio);
      for (let look = 0; look < FROZEN; look++) {
        const shade = look % LEVELS;
        const fate = Math.floor(look / LEVELS) % 3;
        this.drawCell(context, look * this.size, shade, fate, look >= 3 * LEVELS);
      }
      const body = this.size - 1;
      context.strokeStyle = this.colours.faint;
      context.strokeRect(FROZEN * this.size + 0.5, 0.5, body - 1, body - 1);
      this.drawCross(context, CROSS * this.size);
      return new Uint32Array(context.getImageData(0, 0, sheet.width, sheet.height).data.buffer);
    }

    drawCell(context, x, shade, fate, fresh) {
      const body = this.size - 1;
      const strength = (shade - SHADES) / SHADES;
      context.fillStyle = this.shades[shade];
      context.fillRect(x, 0, body, body);
      context.fillStyle = context.strokeStyle = this.colours.ink;
      context.lineWidth = 1;
      if (strength) {
        // without colour: a bar at the upper edge where a split pays, at the lower where a removal does, as long as it pays
        const thick = Math.max(1, Math.round(this.size * 0.16));
        const long = Math.max(2, Math.round(body * Math.abs(strength)));
        context.fillRect(x, strength > 0 ? 0 : body - thick, long, thick);
      }
      if (fate === SPLIT) context.fillRect(x + Math.floor(body / 2), 0, 1, body);
      if (fate === GONE) this.drawCross(context, x);
      if (!fresh) return;
      context.fillStyle = this.colours.fresh;
      context.lineWidth = this.size > 9 ? 1.25 : 0.75;
      context.beginPath();
      context.arc(x + body / 2, body / 2, Math.max(1.6, this.size * 0.19), 0, 2 * Math.PI);
      context.fill();
      context.stroke();
    }

    drawCross(context, x) {
      const end = this.size - 2;
      context.beginPath();
      context.moveTo(x + 1, 1);
      context.lineTo(x + end, end);
      context.moveTo(x + end, 1);
      context.lineTo(x + 1, end);
      context.stroke();
    }

    // Pixels of looks into those of a strip; thousands of calls of a canvas would take ten times as long.
    paint({ context, strip }, looks) {
      const [from, into] = [this.sheet, new Uint32Array(strip.data.buffer)];
      const [n, wide, across] = [this.pixels, strip.width, (CROSS + 1) * this.pixels];
      into.fill(0);
      for (let i = 0; i < looks.length; i++) {
        let source = looks[i] * n;
        let target = Math.floor(i / this.across) * n * wide + (i % this.across) * n;
        for (let y = 0; y < n; y++, source += across, target += wide) {
          for (let x = 0; x < n; x++) into[target + x] = from[source + x];
        }
      }
      context.putImageData(strip, 0, 0);
    }

    cells(line, row, here) {
      const { context } = line;
      this.paint(line, row.looks(this.frame, this.data));
      if (here.entry.new) {
        const [x, y] = this.place(here.entry.size);
        const body = this.size - 1;
        context.fillStyle = this.colours.ink;
        context.fillRect(x + Math.floor(body / 2), y + 2, 1, body - 4);
        context.fillRect(x + 2, y + Math.floor(body / 2), body - 4, 1);
      }
      this.outline(context, row, here);
    }

    outline(context, row, here) {
      const index = this.data.rows.indexOf(row);
      const kin = this.pinned && this.pinned.row === index ? this.pinned.root : -1;
      const places = this.cursor && this.cursor.row === index ? [this.cursor.place] : [];
      if (kin >= 0) here.order.forEach((channel, i) => row.root(here.who[channel]) === kin && places.push(i));
      context.strokeStyle = this.colours.ink;
      context.lineWidth = 2;
      for (const i of places) {
        const [x, y] = this.place(i);
        context.strokeRect(x + 0.5, y + 0.5, this.size - 2, this.size - 2);
      }
    }

    point(event) {
      const canvas = event.target.closest("canvas");
      if (!canvas) return this.look(null);
      const row = Number(canvas.dataset.row);
      const box = canvas.getBoundingClientRect();
      const column = Math.floor((event.clientX - box.left) / this.size);
      const place = Math.floor((event.clientY - box.top) / this.size) * this.across + column;
      this.look(column < this.across && place < this.length(row) ? { row, place } : null);
    }

    length(row) {
      const here = this.data.rows[row].frames[this.frame];
      return here ? here.entry.size + (here.entry.new ? 1 : 0) : 0;
    }

    pin() {
      const before = this.pinned;
      const row = this.cursor && this.data.rows[this.cursor.row];
      const here = row && row.frames[this.frame];
      const channel = here && here.order[this.cursor.place];
      const root = channel === undefined || !here ? -1 : row.root(here.who[channel]);
      const again = before && this.cursor && before.row === this.cursor.row && before.root === root;
      this.pinned = root < 0 || again ? null : { row: this.cursor.row, root };
      for (const pin of [before, this.pinned]) if (pin) this.drawRow(this.data.rows[pin.row], pin.row);
    }

    look(cursor) {
      const before = this.cursor;
      if (cursor) {
        const most = this.length(cursor.row) - 1;
        cursor = most < 0 ? null : { row: cursor.row, place: Math.max(0, Math.min(most, cursor.place)) };
      }
      this.cursor = cursor;
      for (const at of [before, cursor]) if (at) this.drawRow(this.data.rows[at.row], at.row);
      this.tip.hidden = !cursor;
      if (!cursor) return;
      const lines = this.describe(cursor);
      this.tip.replaceChildren(
        ...lines.map((text, i) => Object.assign(document.createElement(i ? "span" : "strong"), { textContent: text })),
      );
      this.live.textContent = lines.join(". ");
      const box = this.element.getBoundingClientRect();
      const strip = this.lines[cursor.row].canvas.getBoundingClientRect();
      const [x, y] = this.place(cursor.place);
      const left = Math.min(strip.left - box.left + x, box.width - this.tip.offsetWidth - 4);
      let top = strip.top - box.top + y + this.size + 6;
      if (box.top + top + this.tip.offsetHeight > innerHeight) top -= this.size + 12 + this.tip.offsetHeight;
      this.tip.style.transform = `translate(${Math.max(0, left)}px, ${top}px)`;
    }

    describe({ row: index, place }) {
      const row = this.data.rows[index];
      const { entry, at, order, who } = row.frames[this.frame];
      const costs = (kind, verb) => {
        const [params, flops] = entry.costs[kind];
        return `${verb} ${plural(Math.abs(params), "parameter")} and ${plural(Math.abs(flops), "FLOP")}`;
      };
      const gains = (gain, error) =>
        `predicted gain ${signed(gain)} (${number(gain - 2 * error)} to ${number(gain + 2 * error)})`;
      if (place === order.length) {
        const { gain, error, layer } = entry.new;
        return [`${row.name}, a new channel`, `${gains(gain, error)}, costs ${costs("new", "")}`, `layer ${layer}`];
      }
      const channel = order[place];
      const lines = [`${row.name}, channel ${channel} of ${entry.size}`];
      lines.push(this.origin(row.people[who[channel]]));
      if (entry.layers.length > 1) lines.push(`written by ${entry.layers.join(", ")}`);
      if (entry.frozen) return [...lines, `frozen: ${entry.frozen}`];
      const i = at + channel;
      if (!Number.isNaN(this.data.split_gain[i])) {
        const layer = entry.split_layer && entry.layers[entry.split_layer[channel]];
        const where = layer ? ` in ${layer}` : "";
        lines.push(`split${where}: ${gains(this.data.split_gain[i], this.data.split_error[i])}, ${costs("split", "costs")}`);
      }
      if (!Number.isNaN(this.data.prune_gain[i])) {
        lines.push(`removal: ${gains(this.data.prune_gain[i], this.data.prune_error[i])}, ${costs("prune", "frees")}`);
      }
      const fate = row.fate(this.frame, channel);
      if (fate !== STAYS) lines.push(`the rewrite of this round ${fate === SPLIT ? "splits" : "removes"} it`);
      return lines;
    }

    origin({ frame, kind, channel }) {
      if (kind === "seed") return `of the seed, where it is channel ${channel}`;
      const after = this.data.frames[frame - 1].round;
      const when = after ? `since the rewrite of round ${after}` : "since the search for the depth";
      return kind === "split" ? `${when}, a copy of what was channel ${channel}` : `new ${when}`;
    }

    key(event) {
      const at = this.cursor || { row: this.data.rows.findIndex((_, i) => this.length(i)), place: -1 };
      const seek = (step) => {
        for (let row = at.row + step; row >= 0 && row < this.data.rows.length; row += step) {
          if (this.length(row)) return { row, place: Math.max(0, at.place) };
        }
        return at;
      };
      const last = this.data.frames.length - 1;
      const act = {
        ArrowRight: () => this.look({ ...at, place: at.place + 1 }),
        ArrowLeft: () => this.look({ ...at, place: at.place - 1 }),
        ArrowDown: () => this.look(this.cursor ? seek(1) : { ...at, place: 0 }),
        ArrowUp: () => this.look(seek(-1)),
        Home: () => this.look({ ...at, place: 0 }),
        End: () => this.look({ ...at, place: this.length(at.row) - 1 }),
        PageDown: () => this.go(Math.min(last, this.frame + 1)),
        PageUp: () => this.go(Math.max(0, this.frame - 1)),
        Enter: () => this.pin(),
        Escape: () => ((this.pinned = null), this.look(null), this.draw()),
      }[event.key];
      if (!act) return;
      event.preventDefault();
      act();
      if (this.cursor) this.lines[this.cursor.row].line.scrollIntoView({ block: "nearest" });
    }

    toggle() {
      if (this.timer) {
        clearInterval(this.timer);
        this.timer = null;
      } else {
        const last = this.data.frames.length - 1;
        if (this.frame === last) this.go(0);
        this.timer = setInterval(() => (this.frame < last ? this.go(this.frame + 1) : this.toggle()), 900);
      }
      this.play.textContent = this.timer ? "Pause" : "Play";
    }
  }

  for (const element of document.querySelectorAll(".architecture")) {
    const figure = new Figure(element);
    element.querySelector(".back").addEventListener("click", () => figure.go(figure.frame - 1));
    element.querySelector(".on").addEventListener("click", () => figure.go(figure.frame + 1));
  }
})();
