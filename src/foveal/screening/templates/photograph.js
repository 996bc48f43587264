"use strict";
(() => {
  const root = document.documentElement;
  document.querySelectorAll("input[data-layer]").forEach((box) => {
    const layer = document.getElementById("layer-" + box.dataset.layer);
    const apply = () => {
      layer.hidden = !box.checked;
      layer.style.display = box.checked ? "" : "none";
    };
    box.addEventListener("change", apply);
    apply();
  });
  for (const name of ["opacity", "zoom"]) {
    const slider = document.getElementById(name);
    const apply = () => root.style.setProperty("--" + name, slider.value);
    slider.addEventListener("input", apply);
    apply();
  }
  addEventListener("keydown", (event) => {
    if (event.target.closest("input, .window") || event.altKey || event.ctrlKey || event.metaKey) return;
    const rel = { ArrowLeft: "prev", ArrowRight: "next" }[event.key];
    const link = rel && document.querySelector(`a[rel="${rel}"]`);
    if (link) location.href = link.href;
  });
})();
