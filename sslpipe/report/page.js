// Pointing at a dot of a map shows its image and finds the same image in the other maps; so do the arrow keys, from dot
// to dot.
for (const box of document.querySelectorAll(".maps[data-sprite]")) {
  const { sprite, columns, side, names } = box.dataset;
  const labels = JSON.parse(names);
  const zoom = Math.max(1, Math.round(72 / side));
  const tip = document.createElement("div");
  const picture = document.createElement("i");
  const word = document.createElement("span");
  tip.className = "tip";
  tip.hidden = true;
  word.setAttribute("aria-live", "polite");
  tip.append(picture, word);
  box.append(tip);
  picture.style.cssText = `width:${side * zoom}px;height:${side * zoom}px;background:url(${sprite}) 0 0/${columns * side * zoom}px auto`;

  const maps = [...box.querySelectorAll("svg.map")].map((svg) => {
    const ring = document.createElementNS(svg.namespaceURI, "circle");
    const dots = [...svg.querySelectorAll("circle")].map((dot) => ({
      n: +dot.dataset.n, x: +dot.getAttribute("cx"), y: +dot.getAttribute("cy"), r: +dot.getAttribute("r"),
    }));
    ring.setAttribute("class", "ring");
    ring.setAttribute("r", 0);
    svg.append(ring);
    return { svg, ring, dots };
  });

  const show = (n, clientX, clientY) => {
    tip.hidden = n < 0;
    for (const { ring, dots } of maps) {
      const dot = dots.find((d) => d.n === n);
      ring.setAttribute("r", dot ? dot.r + 3.5 : 0);
      if (dot) { ring.setAttribute("cx", dot.x); ring.setAttribute("cy", dot.y); }
    }
    if (n < 0) return;
    picture.style.backgroundPosition = `${-(n % columns) * side * zoom}px ${-Math.floor(n / columns) * side * zoom}px`;
    word.textContent = labels[n];
    const frame = box.getBoundingClientRect();
    const x = clientX - frame.left, y = clientY - frame.top;
    const left = x + 18 + tip.offsetWidth > frame.width ? x - 18 - tip.offsetWidth : x + 18;
    tip.style.transform = `translate(${Math.max(0, left)}px, ${Math.max(0, y - tip.offsetHeight / 2)}px)`;
  };

  for (const { svg, dots } of maps) {
    const find = (event) => {
      const frame = svg.getBoundingClientRect();
      const scale = svg.viewBox.baseVal.width / frame.width;
      const x = (event.clientX - frame.left) * scale, y = (event.clientY - frame.top) * scale;
      let best = -1, least = 14 * 14;
      for (const dot of dots) {
        const d = (dot.x - x) ** 2 + (dot.y - y) ** 2;
        if (d < least) { least = d; best = dot.n; }
      }
      show(best, event.clientX, event.clientY);
    };
    svg.addEventListener("pointermove", find);
    svg.addEventListener("pointerdown", find);
    let at = null;
    const go = (dot) => {
      if (!dot) return;
      at = dot;
      const frame = svg.getBoundingClientRect();
      const scale = frame.width / svg.viewBox.baseVal.width;
      show(dot.n, frame.left + dot.x * scale, frame.top + dot.y * scale);
    };
    // The nearest within an eighth of the circle to either side of the arrow.
    const next = ([ahead, aside]) => {
      let best = null, least = Infinity;
      for (const dot of dots) {
        const along = (dot.x - at.x) * ahead + (dot.y - at.y) * aside;
        const across = Math.abs((dot.x - at.x) * aside) + Math.abs((dot.y - at.y) * ahead);
        const d = along + across;
        if (along > 0 && across <= along && d < least) { least = d; best = dot; }
      }
      return best;
    };
    const middle = svg.viewBox.baseVal.width / 2;
    const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    svg.setAttribute("tabindex", 0);
    svg.addEventListener("keydown", (event) => {
      if (event.key === "Escape") show(-1);
      if (!(event.key in arrows)) return;
      event.preventDefault();
      const far = (dot) => (dot.x - middle) ** 2 + (dot.y - middle) ** 2;
      go(at ? next(arrows[event.key]) : dots.reduce((a, b) => (far(b) < far(a) ? b : a)));
    });
    svg.addEventListener("blur", () => show(-1));
    svg.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && show(-1));
  }
}
