"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const cards = [...document.querySelectorAll("details.finding")];
  const SVG = "http://www.w3.org/2000/svg";

  // Everything from tables and logs enters the page as text nodes and attribute values, never as markup.
  function el(name, attributes = {}, ...children) {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  }
  function svg(name, attributes = {}, text) {
    const node = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    return node;
  }
  const number = (hex) => Number("0x" + hex);
  const UNITS = [["T", 2 ** 40], ["G", 2 ** 30], ["M", 2 ** 20], ["K", 2 ** 10]];
  function size(bytes) {
    for (const [unit, value] of UNITS) {
      if (bytes >= value) {
        const amount = bytes / value;
        return (Number.isInteger(amount) ? amount : amount.toFixed(amount < 10 ? 2 : 1)) + " " + unit + "iB";
      }
    }
    return bytes + " bytes";
  }
  function address(value) {
    for (const [unit, each] of UNITS.slice(0, 3)) if (value && value % each === 0) return value / each + unit;
    return value ? "0x" + value.toString(16) : "0";
  }

  /* ---- filter ---- */
  const text = document.getElementById("text"), rule = document.getElementById("rule");
  const levels = [...document.querySelectorAll(".levels button")];
  const words = cards.map((card) => card.textContent.toLowerCase());
  function filter() {
    const wanted = text.value.toLowerCase().split(/\s+/).filter(Boolean);
    const on = new Set(levels.filter((b) => b.getAttribute("aria-pressed") === "true").map((b) => b.dataset.level));
    let shown = 0;
    cards.forEach((card, index) => {
      const fits = on.has(card.dataset.level) && (!rule.value || card.dataset.rule === rule.value)
        && wanted.every((word) => words[index].includes(word));
      card.hidden = !fits;
      shown += fits;
    });
    document.getElementById("shown").textContent =
      shown === cards.length ? shown + " findings" : shown + " of " + cards.length + " findings";
    document.getElementById("none").hidden = shown > 0;
  }
  text.addEventListener("input", filter);
  rule.addEventListener("change", filter);
  for (const button of levels) {
    button.addEventListener("click", () => {
      button.setAttribute("aria-pressed", button.getAttribute("aria-pressed") === "true" ? "false" : "true");
      filter();
    });
  }
  document.getElementById("expand").addEventListener("click", () => {
    const visible = cards.filter((card) => !card.hidden), open = visible.every((card) => card.open);
    for (const card of visible) card.open = !open;
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !event.target.closest("input, select, textarea")) {
      event.preventDefault();
      text.focus();
    }
  });

  /* ---- copy ---- */
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("button.copy");
    if (!button) return;
    const code = button.previousElementSibling;
    try {
      await navigator.clipboard.writeText(code.textContent);
    } catch {
      getSelection().selectAllChildren(code);
      document.execCommand("copy");
    }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });

  /* ---- details are built when a card is opened ---- */
  cards.forEach((card, index) => {
    card.addEventListener("toggle", () => {
      if (card.open && !card.dataset.built) {
        card.dataset.built = "1";
        build(card.querySelector(".pictures"), data.findings[index]);
      }
    });
  });
  if (location.hash) {
    const card = document.getElementById(location.hash.slice(1));
    if (card && card.tagName === "DETAILS") card.open = true;
  }

  function build(into, finding) {
    const map = addressMap(finding);
    into.append(el("h3", {}, "Address map, " + finding.kernel), map.figure, legend(finding), rangesTable(finding));
    map.draw();
    if (finding.blocks.length) into.append(el("h3", {}, "Memory blocks"), blockGrid(finding));
    if (finding.slit.length > 1 || finding.distances.length > 1) {
      into.append(el("h3", {}, "Distances"),
        el("div", { class: "pair" }, ...heat("SLIT, by proximity domain", finding.slit),
          ...heat("What the kernel uses, by node", finding.distances)));
    }
    if (finding.steps.length) {
      into.append(el("h3", {}, "What happened, in boot order"), story(finding.steps, finding.left_out));
    }
    into.append(el("h3", {}, "Tables of the smallest case"));
    for (const table of finding.tables) {
      into.append(later(table.name + ", " + table.size + " bytes, hex", () => el("pre", { tabindex: "0" }, hex(table.bytes))));
      if (table.source) into.append(later(table.name + " as ASL data table", () => el("pre", { tabindex: "0" }, table.source)));
    }
    if (!finding.tables.length) into.append(el("p", { class: "muted" }, "The case has no tables."));
    if (finding.console) {
      into.append(el("h3", {}, "Console, lines about memory"), el("pre", { tabindex: "0" }, finding.console));
    }
  }

  function later(title, make) {
    const box = el("details", { class: "more" }, el("summary", {}, title));
    box.addEventListener("toggle", () => { if (box.open && box.children.length === 1) box.append(make()); });
    return box;
  }

  function hex(base64) {
    const bytes = atob(base64), lines = [];
    for (let at = 0; at < bytes.length; at += 16) {
      const row = [...bytes.slice(at, at + 16)];
      const codes = row.map((c) => c.charCodeAt(0).toString(16).padStart(2, "0")).join(" ").padEnd(48);
      const shown = row.map((c) => (c >= " " && c <= "~" ? c : ".")).join("");
      lines.push(at.toString(16).padStart(4, "0") + "  " + codes + " " + shown);
    }
    return lines.join("\n");
  }

  function story(steps, leftOut) {
    const list = el("ol", { class: "story" });
    let chapter = null;
    for (const [name, subject, firmware, kernel, because, source] of steps) {
      const lead = subject ? subject + ": " : "";
      const item = el("div", {},
        ...(firmware ? [el("p", { class: "muted" }, "Firmware: " + lead + firmware)] : []),
        el("p", {}, (firmware ? "" : lead) + kernel),
        el("p", { class: "why" }, because + (because ? ". " : ""), el("span", { class: "src mono" }, source)));
      if (chapter === null || chapter.name !== name) {
        chapter = { name, node: el("li", {}, el("b", {}, name)) };
        list.append(chapter.node);
      }
      chapter.node.append(item);
    }
    if (leftOut) list.append(el("li", { class: "muted" }, leftOut + " more SRAT entries: see the ranges, or acpitk explain --json"));
    return list;
  }

  function legend(finding) {
    const used = new Set(finding.lanes.flatMap(([, bars]) => bars.map((bar) => bar[3])));
    const list = el("ul", { class: "legend", "aria-label": "Legend" });
    for (const mark of [...used].sort((a, b) => a - b)) {
      const swatch = svg("svg", { viewBox: "0 0 14 14", "aria-hidden": "true" });
      swatch.append(svg("rect", { x: 1, y: 1, width: 12, height: 12, class: "m" + mark, stroke: "currentColor" }));
      list.append(el("li", {}, swatch, data.marks[mark]));
    }
    return list;
  }

  function describe(lane, bar) {
    const [start, end, label, , detail] = bar;
    return lane + ": 0x" + start + " - 0x" + end + " (" + size(number(end) - number(start)) + "), " + label
      + (detail ? ", " + detail : "");
  }

  function rangesTable(finding) {
    const rows = finding.lanes.flatMap(([lane, bars]) => bars.map((bar) => [lane, bar]));
    return later("Ranges as a table (" + rows.length + ")", () => {
      const body = el("tbody");
      const table = el("table", { class: "list" },
        el("thead", {}, el("tr", {}, ...["lane", "start", "end", "size", "what", "more"].map((h) => el("th", { scope: "col" }, h)))), body);
      const box = el("div", { class: "scroll", tabindex: "0" }, table);
      let at = 0;
      const next = el("button", { type: "button" }, "Show 500 more");
      const grow = () => {
        for (const [lane, [start, end, label, , detail]] of rows.slice(at, at + 500)) {
          body.append(el("tr", {}, el("td", {}, lane), el("td", { class: "mono" }, "0x" + start), el("td", { class: "mono" }, "0x" + end),
            el("td", {}, size(number(end) - number(start))), el("td", {}, label), el("td", {}, detail)));
        }
        at += 500;
        next.hidden = at >= rows.length;
      };
      next.addEventListener("click", grow);
      grow();
      return el("div", {}, box, next);
    });
  }

  /* ---- address map ---- */
  function addressMap(finding) {
    const axis = finding.axis.map(([start, end, share, squeezed]) => ({ start: number(start), end: number(end), share, squeezed }));
    let sum = 0;
    for (const part of axis) { part.from = sum; sum += part.share; part.to = sum; }
    const place = (value) => {
      let at = 0;
      for (const part of axis) {
        if (value < part.start) return at;
        if (value < part.end) return part.from + part.share * ((value - part.start) / (part.end - part.start));
        at = part.to;
      }
      return 1;
    };
    const rows = [];
    for (const [name, bars] of finding.lanes) {
      const lane = [];
      for (const bar of bars) {
        const item = { bar, name, x0: place(number(bar[0])), x1: place(number(bar[1])), from: number(bar[0]), to: number(bar[1]) };
        const free = name.startsWith("reserved") ? lane[0] : lane.find((row) => row[row.length - 1].to <= item.from);
        if (free) free.push(item);
        else if (lane.length < 4) lane.push([item]);
      }
      if (!lane.length) lane.push([]);
      lane.forEach((items, index) => rows.push({ name: index ? "" : name, items }));
    }
    const MARGIN = 20 + 7 * Math.max(8, ...finding.lanes.map(([name]) => name.length)), TOP = 26, ROW = 30;
    let low = 0, high = 1, chosen = null, width = 1000;
    const picture = svg("svg", { "aria-hidden": "true" });
    const readout = el("p", { class: "readout mono", role: "status", "aria-live": "polite" }, "Point at a range, or move among them with the arrow keys.");
    const view = el("div", {
      class: "view", tabindex: "0", role: "application", "aria-roledescription": "address map",
      "aria-label": "Address map with lanes " + finding.lanes.map(([name]) => name).join(", ")
        + ". Arrow keys move among ranges, plus and minus zoom, shift and arrow keys pan, 0 shows everything.",
    }, picture);
    const button = (label, name, act) => {
      const b = el("button", { type: "button", "aria-label": name, "data-zoom": label }, label);
      b.addEventListener("click", act);
      return b;
    };
    const middle = () => (chosen && chosen.x1 > low && chosen.x0 < high ? (chosen.x0 + chosen.x1) / 2 : (low + high) / 2);
    const tools = el("div", { class: "tools" }, button("+", "Zoom in", () => zoom(0.5, middle())), button("\u2212", "Zoom out", () => zoom(2, middle())),
      button("Everything", "Show everything", () => { low = 0; high = 1; draw(); }),
      el("span", {}, "drag to pan, ctrl + wheel to zoom"));
    const figure = el("figure", { class: "map", "aria-label": "Address map" }, tools, view, readout);

    function clamp() {
      const span = Math.min(high - low, 1);
      low = Math.max(0, Math.min(low, 1 - span));
      high = low + span;
    }
    function zoom(factor, about) {
      const span = Math.min(1, Math.max((high - low) * factor, 1e-7)), part = (about - low) / (high - low);
      low = about - span * part;
      high = low + span;
      clamp();
      draw();
    }
    const px = (x) => MARGIN + ((x - low) / (high - low)) * (width - MARGIN - 6);
    function choose(item) {
      chosen = item;
      readout.textContent = describe(item.name, item.bar);
      if (item.x1 <= low || item.x0 >= high) {
        const span = high - low;
        low = (item.x0 + item.x1) / 2 - span / 2;
        high = low + span;
        clamp();
      }
      draw();
    }
    function draw(room = view.clientWidth || 1000) {
      width = Math.max(room, 320);
      const height = TOP + rows.length * ROW + 4;
      picture.setAttribute("viewBox", "0 0 " + width + " " + height);
      const out = [];
      for (const part of axis) {
        if (part.to <= low || part.from >= high) continue;
        const left = Math.max(px(part.from), MARGIN), right = Math.min(px(part.to), width - 6);
        if (part.squeezed) out.push(svg("rect", { class: "gap", x: left, y: TOP, width: Math.max(right - left, 0), height: height - TOP - 4 }));
      }
      out.push(...ticks(height));
      rows.forEach((row, index) => {
        const y = TOP + index * ROW + 3;
        out.push(svg("text", { class: "lane", x: 0, y: y + 16 }, row.name));
        let last = -1;
        for (const item of row.items) {
          if (item.x1 < low || item.x0 > high) continue;
          const left = Math.max(px(item.x0), MARGIN), right = Math.min(px(item.x1), width - 6);
          if (right - left < 1 && Math.floor(left) === last) continue;
          last = Math.floor(left);
          const wide = Math.max(right - left, 2);
          const box = svg("rect", { class: "b m" + item.bar[3], x: left, y, width: wide, height: ROW - 7, rx: 2 });
          box.item = item;
          out.push(box);
          const label = [item.bar[2], item.bar[5]].find((t) => t && t.length * 6.8 + 8 < wide);
          if (label) out.push(svg("text", { x: left + wide / 2, y: y + 16, "text-anchor": "middle" }, label));
        }
        if (chosen && row.items.includes(chosen) && chosen.x1 >= low && chosen.x0 <= high) {
          const left = Math.max(px(chosen.x0), MARGIN), right = Math.min(px(chosen.x1), width - 6);
          out.push(svg("rect", { class: "chosen", x: left - 2, y: y - 2, width: Math.max(right - left, 2) + 4, height: ROW - 3, rx: 3 }));
        }
      });
      picture.replaceChildren(...out);
    }
    function ticks(height) {
      const out = [], taken = [];
      const put = (value, x, strong) => {
        const label = address(value), half = label.length * 3.3 + 6;
        const at = Math.min(Math.max(x, MARGIN + half - 6), width - half);
        if (x < MARGIN - 1 || x > width - 4 || taken.some(([a, b]) => at - half < b && at + half > a)) return;
        taken.push([at - half, at + half]);
        out.push(svg("line", { class: strong ? "gapline" : "tickline", x1: x, x2: x, y1: TOP - 6, y2: height - 4 }));
        out.push(svg("text", { class: "tick", x: at, y: 13, "text-anchor": "middle" }, label));
      };
      const parts = axis.filter((part) => part.to > low && part.from < high);
      const scaled = parts.filter((part) => !part.squeezed), squeezed = parts.filter((part) => part.squeezed);
      for (const part of scaled) put(part.start, px(part.from), true);
      for (const part of [...scaled, ...squeezed]) put(part.end, px(part.to), true);
      for (const part of parts) {
        if (part.squeezed) continue;
        const bytes = part.end - part.start, first = Math.max(low, part.from), last = Math.min(high, part.to);
        const value = (x) => part.start + ((x - part.from) / part.share) * bytes;
        const wanted = (value(last) - value(first)) / Math.max(1, (px(last) - px(first)) / 110);
        const step = 2 ** Math.max(12, Math.ceil(Math.log2(Math.max(wanted, 1))));
        for (let v = Math.ceil(value(first) / step) * step; v < value(last); v += step) put(v, px(place(v)), false);
      }
      return out;
    }
    function neighbour(row, step) {
      const all = rows.filter((r) => r.items.length);
      if (!all.length) return;
      const here = all.findIndex((r) => r.items.includes(chosen));
      if (here < 0) return choose(all[0].items[0]);
      if (step) {
        const items = all[here].items;
        return choose(items[Math.min(Math.max(items.indexOf(chosen) + step, 0), items.length - 1)]);
      }
      const target = all[Math.min(Math.max(here + row, 0), all.length - 1)].items, centre = (chosen.x0 + chosen.x1) / 2;
      const off = (item) => Math.max(item.x0 - centre, centre - item.x1, 0);
      choose(target.reduce((best, item) => (off(item) < off(best) ? item : best)));
    }
    view.addEventListener("keydown", (event) => {
      const pan = (high - low) / 5;
      const acts = {
        ArrowRight: () => (event.shiftKey ? shift(pan) : neighbour(0, 1)), ArrowLeft: () => (event.shiftKey ? shift(-pan) : neighbour(0, -1)),
        ArrowDown: () => neighbour(1, 0), ArrowUp: () => neighbour(-1, 0),
        "+": () => zoom(0.5, middle()), "=": () => zoom(0.5, middle()), "-": () => zoom(2, middle()), 0: () => { low = 0; high = 1; draw(); },
      };
      if (event.ctrlKey || event.metaKey || event.altKey || !acts[event.key]) return;
      event.preventDefault();
      acts[event.key]();
    });
    function shift(by) { low += by; high += by; clamp(); draw(); }
    const at = (event) => {
      const box = picture.getBoundingClientRect();
      return low + ((event.clientX - box.left) * (width / box.width) - MARGIN) / (width - MARGIN - 6) * (high - low);
    };
    picture.addEventListener("pointerover", (event) => {
      if (event.target.item) readout.textContent = describe(event.target.item.name, event.target.item.bar);
    });
    picture.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      zoom(event.deltaY > 0 ? 1.25 : 0.8, at(event));
    }, { passive: false });
    let drag = null;
    picture.addEventListener("pointerdown", (event) => { drag = { x: event.clientX, low, high, moved: false, item: event.target.item }; });
    picture.addEventListener("pointermove", (event) => {
      if (!drag) return;
      const by = ((event.clientX - drag.x) / (picture.getBoundingClientRect().width * (1 - (MARGIN + 6) / width))) * (high - low);
      if (!drag.moved && Math.abs(event.clientX - drag.x) < 4) return;
      if (!drag.moved) picture.setPointerCapture(event.pointerId);
      drag.moved = true;
      low = drag.low - by;
      high = drag.high - by;
      clamp();
      draw();
    });
    picture.addEventListener("pointerup", () => { if (drag && !drag.moved && drag.item) choose(drag.item); drag = null; });
    picture.addEventListener("pointercancel", () => { drag = null; });
    picture.addEventListener("dblclick", (event) => zoom(0.5, at(event)));
    new ResizeObserver(() => { if (view.clientWidth && view.clientWidth !== width) draw(); }).observe(view);
    addEventListener("beforeprint", () => draw(680));
    addEventListener("afterprint", () => draw());
    return { figure, draw };
  }

  /* ---- memory blocks ---- */
  function blockGrid(finding) {
    const total = finding.blocks.reduce((sum, run) => sum + run[2], 0);
    if (total > 20000) return el("p", { class: "muted" }, total + " blocks: too many to draw, the lane above has them.");
    const SIZE = 15, STEP = 18, across = Math.min(total, 56), down = Math.ceil(total / across);
    const picture = svg("svg", { viewBox: "0 0 " + (across * STEP + 4) + " " + (down * STEP + 4), "aria-hidden": "true" });
    const paths = new Map(), spot = (i) => [2 + (i % across) * STEP, 2 + Math.floor(i / across) * STEP];
    let index = 0;
    for (const [, , count, mark] of finding.blocks) {
      for (let i = 0; i < count; i++, index++) {
        const [x, y] = spot(index);
        const shape = mark === 7 ? "h15v15h-15z" : mark === 8 ? "h15v15h-15zl15 15m0 -15l-15 15" : "h15v15h-15zm4 7.5h7";
        paths.set(mark, (paths.get(mark) || "") + "M" + x + " " + y + shape);
      }
    }
    for (const [mark, d] of paths) picture.append(svg("path", { d, class: "m" + mark }));
    const cursor = svg("rect", { class: "chosen", width: SIZE, height: SIZE, visibility: "hidden" });
    picture.append(cursor);
    const readout = el("p", { class: "readout mono", role: "status", "aria-live": "polite" }, "Point at a block, or move with the arrow keys.");
    let at = -1;
    function show(i) {
      if (i < 0 || i >= total) return;
      at = i;
      let left = i;
      for (const [start, bytes, count, mark, reason, home] of finding.blocks) {
        if (left < count) {
          const from = number(start) + left * number(bytes);
          readout.textContent = "block " + (i + 1) + " of " + total + ": 0x" + from.toString(16) + ", " + size(number(bytes)) + ", " + home
            + ", " + data.marks[mark] + ": " + reason;
          break;
        }
        left -= count;
      }
      const [x, y] = spot(i);
      cursor.setAttribute("x", x);
      cursor.setAttribute("y", y);
      cursor.setAttribute("visibility", "visible");
    }
    const good = finding.blocks.reduce((sum, run) => sum + (run[3] === 7 ? run[2] : 0), 0);
    const view = el("div", {
      class: "view", tabindex: "0", role: "application", "aria-roledescription": "memory blocks",
      "aria-label": good + " of " + total + " memory blocks can be removed. Arrow keys move among blocks.",
    }, picture);
    const fit = Math.min(across * STEP + 4, 1100);
    picture.style.maxWidth = fit + "px";
    view.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across }[event.key];
      if (!step) return;
      event.preventDefault();
      show(at < 0 ? 0 : at + step);
    });
    picture.addEventListener("pointermove", (event) => {
      const box = picture.getBoundingClientRect(), scale = (across * STEP + 4) / box.width;
      const column = Math.floor(((event.clientX - box.left) * scale - 2) / STEP), row = Math.floor(((event.clientY - box.top) * scale - 2) / STEP);
      if (column >= 0 && column < across && row >= 0) show(row * across + column);
    });
    return el("div", { class: "blocks" }, el("p", {}, good + " of " + total + " can be removed."), view, readout);
  }

  /* ---- distances ---- */
  function heat(title, rows) {
    if (rows.length < 2) return [];
    const far = Math.max(11, ...rows.flat().filter((d) => d < 255));
    const body = rows.map((row, i) => el("tr", {}, el("th", { scope: "row" }, String(i)),
      ...row.map((d) => el("td", { class: "f" + (d <= 10 ? 0 : d >= 255 ? 4 : 1 + Math.min(3, Math.floor(((d - 10) / (far - 10)) * 2.99))) }, String(d)))));
    return [el("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": title }, el("p", { class: "muted" }, title), el("table", { class: "heat", "aria-label": title },
      el("thead", {}, el("tr", {}, el("th", {}, ""), ...rows.map((_, i) => el("th", { scope: "col" }, String(i))))), el("tbody", {}, ...body)))];
  }
})();
