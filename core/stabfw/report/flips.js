(() => {
  const form = document.getElementById("tools");
  if (!form) return;
  const list = document.getElementById("list");
  const items = [...list.children].map((node, place) => ({
    node,
    place,
    kind: node.dataset.kind,
    cause: node.dataset.cause,
    margin: node.dataset.margin === "" ? null : Number(node.dataset.margin),
    slices: JSON.parse(node.dataset.slices),
    text: node.textContent.toLowerCase().replace(/\s+/g, " "),
  }));
  const slider = form.elements.margin;

  function limit() {
    if (!slider || slider.value === slider.max) return Infinity;
    // Squared, because the interesting margins are the small ones.
    return Number(slider.dataset.largest) * (slider.value / slider.max) ** 2;
  }

  function update() {
    const kinds = new Set([...form.querySelectorAll("[name=kind]:checked")].map((k) => k.value));
    const words = form.elements.text.value.toLowerCase().split(/\s+/).filter(Boolean);
    const cause = form.elements.cause ? form.elements.cause.value : "";
    const slices = [...form.querySelectorAll("[name=slice]")].filter((s) => s.value);
    const most = limit();
    if (slider) {
      document.getElementById("margin-value").textContent =
        most === Infinity ? "any" : most.toFixed(2);
    }
    const perKind = {};
    let shown = 0;
    for (const item of items) {
      const passes =
        (!cause || item.cause === cause) &&
        (most === Infinity || (item.margin !== null && item.margin <= most)) &&
        slices.every((s) => item.slices[s.dataset.slice] === s.value) &&
        words.every((word) => item.text.includes(word));
      if (passes) perKind[item.kind] = (perKind[item.kind] || 0) + 1;
      item.node.hidden = !(passes && kinds.has(item.kind));
      if (!item.node.hidden) shown += 1;
    }
    for (const count of form.querySelectorAll("[data-count^='kind:']")) {
      count.textContent = perKind[count.dataset.count.slice(5)] || 0;
    }
    document.getElementById("shown").textContent =
      shown === items.length
        ? `${items.length} changed answers`
        : `${shown} of ${items.length} changed answers`;
    document.getElementById("none").hidden = shown > 0;
  }

  function sort() {
    const way = form.elements.sort.value;
    const key = (item) => (item.margin === null ? Infinity : way === "up" ? item.margin : -item.margin);
    const ordered = way
      ? [...items].sort((a, b) => key(a) - key(b) || a.place - b.place)
      : items;
    list.append(...ordered.map((item) => item.node));
  }

  form.addEventListener("input", update);
  form.elements.sort.addEventListener("change", sort);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(() => { update(); sort(); }));
  update();
})();
