// Pointing at a dot of a map shows its image and finds the same image in the other maps.
for (const box of document.querySelectorAll(".maps[data-sprite]")) {
  const { sprite, columns, side, names } = box.dataset;
  const labels = JSON.parse(names);
  const zoom = Math.max(1, Math.round(72 / side));
  const tip = document.createElement("div");
  const picture = document.createElement("i");
  const word = document.createElement("span");
  tip.className = "tip";
  tip.hidden = true;
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

  const show = (n, event) => {
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
    const x = event.clientX - frame.left, y = event.clientY - frame.top;
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
      show(best, event);
    };
    svg.addEventListener("pointermove", find);
    svg.addEventListener("pointerdown", find);
    svg.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && show(-1, event));
  }
}
