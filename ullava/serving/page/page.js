// Layers of a scene: what belongs to one thing (mask, words, entry of the list) is lit together. The words of a phrase
// belong to all of its things.
window.ullava = (() => {
  let least = 0;

  const apply = () => {
    for (const part of document.querySelectorAll(".ul-scene [data-score]")) {
      part.classList.toggle("ul-off", Number(part.dataset.score) < least);
    }
  };

  const together = (part, at) => {
    const words = part.tagName === "MARK" || at.tagName === "MARK";
    if (words && at.dataset.group !== undefined) return part.dataset.group === at.dataset.group;
    return part.dataset.object === at.dataset.object;
  };

  const point = (element, event) => {
    const at = event.type === "pointerleave" || event.type === "focusout" ? null : event.target.closest("[data-object]");
    const number = at && !at.classList.contains("ul-off") ? at.dataset.object : null;
    for (const part of element.querySelectorAll("[data-object]")) {
      part.classList.toggle("ul-on", number !== null && together(part, at));
    }
    const scene = element.querySelector(".ul-scene");
    const tip = element.querySelector(".ul-tip");
    if (!scene || !tip) return;
    scene.classList.toggle("ul-one", number !== null);
    const layer = number === null ? null : element.querySelector(`.ul-layer[data-object="${number}"]`);
    tip.hidden = !layer;
    if (!layer) return;
    tip.textContent = layer.dataset.label;
    const frame = scene.getBoundingClientRect();
    const box = layer.getBoundingClientRect();
    const inside = event.target.closest("svg") && event.clientX !== undefined;
    const x = (inside ? event.clientX : box.left + box.width / 2) - frame.left;
    const y = (inside ? event.clientY : box.top) - frame.top;
    tip.style.left = `${Math.min(Math.max(x, 30), frame.width - 30)}px`;
    tip.style.top = `${Math.max(y, 24)}px`;
  };

  const scene = (element, trigger, watch) => {
    const pick = (event) => {
      const at = event.target.closest("[data-object]");
      if (at && !at.classList.contains("ul-off")) trigger("select", { index: Number(at.dataset.object) });
    };
    for (const kind of ["pointerover", "pointermove", "pointerleave", "focusin", "focusout"]) {
      element.addEventListener(kind, (event) => point(element, event));
    }
    element.addEventListener("click", pick);
    element.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") {
        pick(event);
        if (event.target.closest("[data-object]")) event.preventDefault();
      }
    });
    watch("value", apply);
  };

  const show = (score) => {
    least = Number(score);
    apply();
  };

  return { scene, show };
})();
