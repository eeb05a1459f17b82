"use strict";
// Fig. 2: a canvas a channel space, a cell a channel, redrawn as the slider moves. No library: 110,000 cells are arrays and rectangles.
(() => {
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer;

  // IEEE 754 half floats: sign, 5 bits of exponent, 10 of fraction.
  const halves = ({ scale, data }) =>
    Float32Array.from(new Uint16Array(bytes(data)), (bits) => {
      const sign = bits & 0x8000 ? -scale : scale;
      const exponent = (bits >> 10) & 31;
      const fraction = bits & 1023;
      if (exponent === 31) return NaN;
      return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -24 * fraction);
    });

  const number = (value, digits = 3) => {
    if (value === 0) return "0";
    const size = Math.abs(value);
    const text = size >= 1e-4 && size < 1e5 ? Number(value.toPrecision(digits)).toString() : value.toExponential(digits - 1);
    return text.replace("-", "−");
  };
  const signed = (value) => (value > 0 ? "+" : "") + number(value);
  const count = (value) => value.toLocaleString("en-US");
  const plural = (n, one, many = one + "s") => `${count(n)} ${n === 1 ? one : many}`;

  // Who every channel is, from frame to frame: a copy stands behind what it was split from, what is new at the end.
  class Row {
    constructor(name, frames, index, data) {
      this.name = name;
      this.frames = []; // per frame null, or {entry, at, order, who}
      this.people = []; // who -> {frame, kind: "seed" | "split" | "new", channel, parent}
      this.most = 0;
      let last = null;
      frames.forEach((frame, f) => {
        const entry = frame.rows[index];
        if (!entry) {
          this.frames.push(null);
          last = null;
          return;
        }
        const at = data.starts[f][index];
        const who = new Int32Array(entry.size).fill(-1);
        const copies = new Map(); // channel before -> channels now, the first is still itself
        for (let c = 0; c < entry.size; c++) {
          const source = data.source[at + c];
          if (f === 0 || !last || source < 0) {
            const kind = f === 0 || entry.frozen ? "seed" : "new";
            who[c] = this.people.push({ frame: f, kind, channel: c, parent: -1 }) - 1;
          } else if (copies.has(source)) {
            who[c] = this.people.push({ frame: f, kind: "split", channel: source, parent: last.who[source] }) - 1;
            copies.get(source).push(c);
          } else {
            who[c] = last.who[source];
            copies.set(source, [c]);
          }
        }
        let order = [];
        if (last) {
          for (const before of last.order) order.push(...(copies.get(before) || []));
          for (let c = 0; c < entry.size; c++) if (data.source[at + c] < 0) order.push(c);
          last.copies = copies;
        }
        if (order.length !== entry.size) order = Array.from({ length: entry.size }, (_, c) => c);
        last = { entry, at, order: Int32Array.from(order), who, copies: null };
        this.frames.push(last);
        this.most = Math.max(this.most, entry.size + (entry.new ? 1 : 0));
      });
    }

    root(who) {
      while (this.people[who].parent >= 0) who = this.people[who].parent;
      return who;
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

  const SHADES = 16;
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
        return { line, width, canvas, context: canvas.getContext("2d") };
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
      this.shades = Array.from({ length: 2 * SHADES + 1 }, (_, i) => {
        const strength = (i - SHADES) / SHADES;
        return strength ? mix(cell, strength > 0 ? split : prune, 0.25 + 0.75 * Math.abs(strength)) : css(cell);
      });
    }

    // Sizes of the cells, the same in every frame, so that nothing jumps as the slider moves.
    fit() {
      const room = Math.floor(this.lines[0].canvas.parentElement.clientWidth - this.indent());
      const ratio = devicePixelRatio || 1;
      if (room < 20 || (room === this.room && ratio === this.ratio)) return false;
      [this.room, this.ratio] = [room, ratio];
      const most = Math.max(...this.data.rows.map((row) => row.most));
      this.size = Math.max(7, Math.min(20, Math.floor(room / most)));
      this.across = Math.max(1, Math.floor(room / this.size));
      this.data.rows.forEach((row, index) => {
        const { canvas } = this.lines[index];
        const high = Math.max(1, Math.ceil(row.most / this.across)) * this.size;
        canvas.width = room * ratio;
        canvas.height = high * ratio;
        canvas.style.width = `${room}px`;
        canvas.style.height = `${high}px`;
      });
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
      const { params, accuracy, loss, kind } = this.data.frames[this.frame];
      const totals = { split: 0, gone: 0, fresh: 0, all: 0 };
      for (const row of this.data.rows) {
        const here = row.frames[this.frame];
        if (!here) continue;
        totals.all += here.entry.frozen ? 0 : here.entry.size;
        for (let c = 0; c < here.entry.size; c++) {
          const fate = this.fate(here, c);
          totals.split += fate === "split";
          totals.gone += fate === "gone";
          totals.fresh += this.isFresh(row, here, c);
        }
      }
      const parts = [plural(totals.all, "channel")];
      if (params !== undefined) parts.push(plural(params, "parameter"));
      if (typeof accuracy === "number") parts.push(`held-out accuracy ${(100 * accuracy).toFixed(2)} %`);
      else if (typeof loss === "number") parts.push(`held-out loss ${number(loss)}`);
      if (totals.fresh) parts.push(`${count(totals.fresh)} new since the last rewrite`);
      if (kind === "round") {
        const next = [totals.split && `splits ${count(totals.split)}`, totals.gone && `removes ${count(totals.gone)}`];
        const words = next.filter(Boolean).join(" and ");
        parts.push(words ? `its rewrite ${words}` : "its rewrite splits and removes none");
      }
      return parts.join(" · ");
    }

    fate(here, channel) {
      if (!here.copies || here.entry.frozen) return "stays";
      const after = here.copies.get(channel);
      return !after ? "gone" : after.length > 1 ? "split" : "stays";
    }

    isFresh(row, here, channel) {
      const { frame, kind } = row.people[here.who[channel]];
      return kind !== "seed" && frame === this.frame;
    }

    draw() {
      if (!this.size) return;
      this.data.rows.forEach((row, index) => this.drawRow(row, index));
    }

    drawRow(row, index) {
      const { line, width, canvas, context } = this.lines[index];
      const here = row.frames[this.frame];
      const before = this.frame ? row.frames[this.frame - 1] : null;
      context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
      context.clearRect(0, 0, canvas.width, canvas.height);
      if (!here) {
        const last = row.frames.slice(0, this.frame).filter(Boolean).at(-1);
        line.className = last ? "space gone" : "space absent";
        width.textContent = last ? "removed" : "not there yet";
        if (last) this.crosses(context, last.entry.size);
        return;
      }
      const { entry } = here;
      const change = before ? entry.size - before.entry.size : 0;
      line.className = entry.frozen ? "space frozen" : "space";
      width.textContent = entry.frozen ? `${count(entry.size)}, frozen` : count(entry.size) + (change ? ` (${signed(change)})` : "");
      line.firstChild.title = entry.frozen ? `${row.name}: ${entry.frozen}` : entry.layers.join(", ");
      this.cells(context, row, here);
    }

    place(i) {
      return [(i % this.across) * this.size, Math.floor(i / this.across) * this.size];
    }

    crosses(context, size) {
      context.strokeStyle = this.colours.faint;
      context.lineWidth = 1;
      context.beginPath();
      const inset = 1.5, end = this.size - 2.5;
      for (let i = 0; i < size; i++) {
        const [x, y] = this.place(i);
        context.moveTo(x + inset, y + inset);
        context.lineTo(x + end, y + end);
        context.moveTo(x + end, y + inset);
        context.lineTo(x + inset, y + end);
      }
      context.stroke();
    }

    cells(context, row, here) {
      const { entry, at, order } = here;
      const body = this.size - 1;
      if (entry.frozen) {
        context.strokeStyle = this.colours.faint;
        context.lineWidth = 1;
        for (let i = 0; i < entry.size; i++) {
          const [x, y] = this.place(i);
          context.strokeRect(x + 0.5, y + 0.5, body - 1, body - 1);
        }
        this.outline(context, row, here);
        return;
      }
      // by shade, so that a colour is set once and not once a cell
      const buckets = Array.from({ length: 2 * SHADES + 1 }, () => []);
      const bars = [];
      const fresh = [];
      const fates = { split: [], gone: [] };
      for (let i = 0; i < order.length; i++) {
        const channel = order[i];
        const value = this.data.value[at + channel] / 127;
        const shade = value > 0 ? Math.ceil(value * SHADES) : Math.floor(value * SHADES);
        buckets[shade + SHADES].push(i);
        if (shade) bars.push([i, value]);
        if (this.isFresh(row, here, channel)) fresh.push(i);
        const fate = this.fate(here, channel);
        if (fate !== "stays") fates[fate].push(i);
      }
      if (entry.new && entry.new.value !== null) {
        buckets[SHADES + Math.ceil(entry.new.value * SHADES)].push(order.length);
        if (entry.new.value > 0) bars.push([order.length, entry.new.value]);
      }
      buckets.forEach((places, shade) => {
        if (!places.length) return;
        context.fillStyle = this.shades[shade];
        for (const i of places) context.fillRect(...this.place(i), body, body);
      });
      // without colour: a bar at the upper edge where a split pays, at the lower where a removal does, as long as it pays
      context.fillStyle = this.colours.ink;
      const thick = Math.max(1, Math.round(this.size * 0.16));
      for (const [i, value] of bars) {
        const [x, y] = this.place(i);
        context.fillRect(x, value > 0 ? y : y + body - thick, Math.max(2, Math.round(body * Math.abs(value))), thick);
      }
      context.strokeStyle = this.colours.ink;
      context.lineWidth = 1;
      context.beginPath();
      for (const i of fates.split) {
        const [x, y] = this.place(i);
        const middle = x + Math.floor(body / 2) + 0.5;
        context.moveTo(middle, y);
        context.lineTo(middle, y + body);
      }
      for (const i of fates.gone) {
        const [x, y] = this.place(i);
        context.moveTo(x + 1, y + 1);
        context.lineTo(x + body - 1, y + body - 1);
        context.moveTo(x + body - 1, y + 1);
        context.lineTo(x + 1, y + body - 1);
      }
      context.stroke();
      if (entry.new) {
        const [x, y] = this.place(order.length);
        context.beginPath();
        context.moveTo(x + body / 2, y + 2);
        context.lineTo(x + body / 2, y + body - 2);
        context.moveTo(x + 2, y + body / 2);
        context.lineTo(x + body - 2, y + body / 2);
        context.stroke();
      }
      context.fillStyle = this.colours.fresh;
      context.lineWidth = this.size > 9 ? 1.25 : 0.75;
      const radius = Math.max(1.6, this.size * 0.19);
      context.beginPath();
      for (const i of fresh) {
        const [x, y] = this.place(i);
        context.moveTo(x + body / 2 + radius, y + body / 2);
        context.arc(x + body / 2, y + body / 2, radius, 0, 2 * Math.PI);
      }
      context.fill();
      context.stroke();
      this.outline(context, row, here);
    }

    outline(context, row, here) {
      const body = this.size - 1;
      const index = this.data.rows.indexOf(row);
      context.strokeStyle = this.colours.ink;
      context.lineWidth = 2;
      here.order.forEach((channel, i) => {
        const looked = this.cursor && this.cursor.row === index && this.cursor.place === i;
        const kin = this.pinned && this.pinned.row === index && row.root(here.who[channel]) === this.pinned.root;
        if (!looked && !kin) return;
        const [x, y] = this.place(i);
        context.strokeRect(x + 0.5, y + 0.5, body - 1, body - 1);
      });
      if (this.cursor && this.cursor.row === index && this.cursor.place === here.order.length && here.entry.new) {
        const [x, y] = this.place(here.order.length);
        context.strokeRect(x + 0.5, y + 0.5, body - 1, body - 1);
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
      const fate = this.fate(row.frames[this.frame], channel);
      if (fate !== "stays") lines.push(fate === "split" ? "the rewrite of this round splits it" : "the rewrite of this round removes it");
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
