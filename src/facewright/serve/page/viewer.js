// Before and after on each other or side by side, zoomed and moved together; faces as buttons on them.

import { element } from "./form.js";

const MOST = 16;
const STEP = 1.25;
const NEAR = 3; // from this scale on single pixels are shown as such

export class Viewer {
  // `onFace` hears the number of a face that was chosen, `onScale` the scale as text.
  constructor(container, { onFace, onScale }) {
    this.container = container;
    this.onFace = onFace;
    this.onScale = onScale;
    this.sideBySide = false;
    this.showFaces = true;
    this.split = 0.5;
    this.view = { scale: 1, x: 0, y: 0 };
    this.pointers = new Map();
    this.content = null;
    this.#listen();
    new ResizeObserver(() => this.content && (this.isFitted ? this.fit() : this.#apply())).observe(container);
  }

  // content: {size: [w, h], left, right, leftTag, rightTag, opaque, faces, points}; right is null for one picture.
  // faces: {index, box, on, title}. The view stays where it is when the size does.
  show(content) {
    const same = this.content && String(this.content.size) === String(content.size);
    this.content = content;
    this.strength = content.strength ?? 1;
    this.#draw();
    if (same) this.#apply();
    else this.fit();
  }

  clear(...nodes) {
    this.content = null;
    this.container.replaceChildren(...nodes);
  }

  setStrength(strength) {
    this.strength = strength;
    for (const image of this.container.querySelectorAll("img.after")) image.style.opacity = strength;
  }

  setSideBySide(on) {
    this.sideBySide = on;
    if (this.content) {
      this.#draw();
      this.fit();
    }
  }

  setShowFaces(on) {
    this.showFaces = on;
    for (const face of this.container.querySelectorAll(".frame")) face.hidden = !on;
  }

  setCurrent(index) {
    for (const face of this.container.querySelectorAll(".face")) {
      face.setAttribute("aria-current", String(Number(face.dataset.index) === index));
    }
  }

  // Bring a face into the middle.
  look(box) {
    const [x0, y0, x1, y1] = box;
    const { width, height } = this.#pane();
    const scale = Math.min(MOST, 0.5 * Math.min(width / (x1 - x0), height / (y1 - y0)));
    this.isFitted = false;
    this.view = { scale, x: width / 2 - (scale * (x0 + x1)) / 2, y: height / 2 - (scale * (y0 + y1)) / 2 };
    this.#apply();
  }

  fit() {
    if (!this.content) return;
    const { width, height } = this.#pane();
    const [w, h] = this.content.size;
    const scale = Math.min(width / w, height / h, 1.5) || 1;
    this.view = { scale, x: (width - scale * w) / 2, y: (height - scale * h) / 2 };
    this.isFitted = true;
    this.#apply();
  }

  // Enlarge around a point of the pane; its middle without one.
  zoom(factor, x, y) {
    if (!this.content) return;
    const { width, height } = this.#pane();
    const [px, py] = [x ?? width / 2, y ?? height / 2];
    const least = 0.5 * Math.min(width / this.content.size[0], height / this.content.size[1]);
    const scale = Math.min(MOST, Math.max(Math.min(least, 1), this.view.scale * factor));
    const real = scale / this.view.scale;
    this.view = { scale, x: px - real * (px - this.view.x), y: py - real * (py - this.view.y) };
    this.isFitted = false;
    this.#apply();
  }

  move(dx, dy) {
    this.view.x += dx;
    this.view.y += dy;
    this.isFitted = false;
    this.#apply();
  }

  #pane() {
    return (this.container.querySelector(".pane") || this.container).getBoundingClientRect();
  }

  #draw() {
    const { left, right, leftTag, rightTag } = this.content;
    const panes = [];
    const two = Boolean(right);
    const tags = (text, side) => element("span", { className: `tag ${side}`, textContent: text });
    if (two && this.sideBySide) {
      panes.push(element("div", { className: "pane" }, this.#layer(left), tags(leftTag, "left"), this.#frame()));
      panes.push(element("div", { className: "pane" }, ...this.#after(), tags(rightTag, "right"), this.#frame()));
    } else if (two) {
      const over = element("div", { className: "layer over" }, ...this.#after());
      const marks = [tags(leftTag, "left"), tags(rightTag, "right")];
      panes.push(element("div", { className: "pane" }, this.#layer(left), over, ...marks, this.#frame(), this.#divider()));
    } else {
      panes.push(element("div", { className: "pane" }, this.#layer(left), this.#frame()));
    }
    this.container.replaceChildren(...panes);
    this.setShowFaces(this.showFaces);
    this.setStrength(this.strength);
  }

  #layer(source, className = "") {
    const image = element("img", { src: source, alt: "", draggable: false, className });
    const [w, h] = this.content.size;
    image.style.width = `${w}px`;
    image.style.height = `${h}px`;
    return element("div", { className: "layer" }, image);
  }

  // The result, over what shows through it: the photo at less than full strength, else a pattern.
  #after() {
    const { left, right, opaque } = this.content;
    const under = opaque ? this.#layer(left) : element("div", { className: "layer clear" });
    return [under, this.#layer(right, "after")];
  }

  #frame() {
    const { faces = [], points = [], size } = this.content;
    const frame = element("div", { className: "frame" });
    frame.style.width = `${size[0]}px`;
    frame.style.height = `${size[1]}px`;
    if (points.length) frame.append(this.#points(points, size));
    for (const face of faces) {
      const number = element("span", { className: "number", textContent: face.index });
      const button = element(
        "button",
        { type: "button", className: face.on ? "face" : "face off", dataset: { index: face.index } },
        number,
      );
      button.setAttribute("aria-label", face.title);
      const [x0, y0, x1, y1] = face.box;
      Object.assign(button.dataset, { x0, y0, x1, y1 });
      button.addEventListener("click", () => this.onFace(face.index));
      frame.append(button);
    }
    return frame;
  }

  #points(points, [width, height]) {
    const name = "http://www.w3.org/2000/svg";
    const drawing = document.createElementNS(name, "svg");
    drawing.setAttribute("viewBox", `0 0 ${width} ${height}`);
    drawing.setAttribute("aria-hidden", "true");
    for (const [x, y, r] of points) {
      const dot = document.createElementNS(name, "circle");
      dot.setAttribute("cx", x);
      dot.setAttribute("cy", y);
      dot.setAttribute("r", r);
      drawing.append(dot);
    }
    return drawing;
  }

  #divider() {
    const range = element("input", { type: "range", min: 0, max: 100, value: 100 * this.split });
    range.setAttribute("aria-label", "How much of the photo before is shown");
    range.addEventListener("input", () => this.#setSplit(range.value / 100));
    const divider = element("div", { className: "divider" }, range);
    divider.addEventListener("pointerdown", (event) => {
      event.stopPropagation();
      event.preventDefault();
      range.focus();
      divider.setPointerCapture(event.pointerId);
    });
    divider.addEventListener("pointermove", (event) => {
      if (!divider.hasPointerCapture(event.pointerId)) return;
      const pane = this.#pane();
      this.#setSplit((event.clientX - pane.left) / pane.width);
      range.value = 100 * this.split;
    });
    return divider;
  }

  #setSplit(split) {
    this.split = Math.min(1, Math.max(0, split));
    const over = this.container.querySelector(".over");
    const divider = this.container.querySelector(".divider");
    if (!over) return;
    over.style.clipPath = `inset(0 0 0 ${100 * this.split}%)`;
    divider.style.left = `${100 * this.split}%`;
  }

  #apply() {
    if (!this.content) return;
    const { scale, x, y } = this.view;
    const transform = `translate(${x}px, ${y}px) scale(${scale})`;
    for (const image of this.container.querySelectorAll(".layer img")) image.style.transform = transform;
    for (const frame of this.container.querySelectorAll(".frame")) {
      frame.style.transform = `translate(${x}px, ${y}px)`;
      // boxes are scaled by themselves, so that lines and numbers keep their width
      for (const face of frame.querySelectorAll(".face")) {
        const { x0, y0, x1, y1 } = face.dataset;
        face.style.left = `${scale * x0}px`;
        face.style.top = `${scale * y0}px`;
        face.style.width = `${scale * (x1 - x0)}px`;
        face.style.height = `${scale * (y1 - y0)}px`;
      }
      const drawing = frame.querySelector("svg");
      if (drawing) {
        drawing.style.width = `${scale * this.content.size[0]}px`;
        drawing.style.height = `${scale * this.content.size[1]}px`;
      }
    }
    this.container.classList.toggle("near", scale >= NEAR);
    this.#setSplit(this.split);
    this.onScale(`${Math.round(100 * scale)} %`);
  }

  #listen() {
    const box = this.container;
    box.addEventListener(
      "wheel",
      (event) => {
        if (!this.content) return;
        event.preventDefault();
        const pane = event.target.closest(".pane") || box;
        const { left, top } = pane.getBoundingClientRect();
        this.zoom(Math.exp(-event.deltaY * 0.0015), event.clientX - left, event.clientY - top);
      },
      { passive: false },
    );
    box.addEventListener("pointerdown", (event) => {
      if (!this.content || event.target.closest(".face")) return;
      this.pointers.set(event.pointerId, event);
      box.setPointerCapture(event.pointerId);
    });
    box.addEventListener("pointermove", (event) => this.#dragged(event));
    for (const name of ["pointerup", "pointercancel"]) {
      box.addEventListener(name, (event) => this.pointers.delete(event.pointerId));
    }
    box.addEventListener("dblclick", (event) => {
      if (!this.content || event.target.closest(".face, .divider")) return;
      const { left, top } = this.#pane();
      if (this.isFitted) this.zoom(1 / this.view.scale, event.clientX - left, event.clientY - top);
      else this.fit();
    });
  }

  #dragged(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    if (this.pointers.size === 1) {
      this.move(event.clientX - before.clientX, event.clientY - before.clientY);
    } else {
      const other = [...this.pointers.values()].find((one) => one.pointerId !== event.pointerId);
      const far = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY) || 1;
      const { left, top } = this.#pane();
      const middle = [(event.clientX + other.clientX) / 2 - left, (event.clientY + other.clientY) / 2 - top];
      this.zoom(far(event) / far(before), ...middle);
    }
    this.pointers.set(event.pointerId, event);
  }

  // Keys while the stage has the focus; whether the key was one of ours.
  key(event) {
    const steps = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };
    if (event.key in steps) this.move(...steps[event.key]);
    else if (event.key === "+" || event.key === "=") this.zoom(STEP);
    else if (event.key === "-") this.zoom(1 / STEP);
    else if (event.key === "0") this.fit();
    else if (event.key === "1") this.zoom(1 / this.view.scale);
    else return false;
    return true;
  }
}
