// What scrolls sideways can be scrolled by keyboard, and a table that does says so. What does not is no stop for Tab.
(() => {
  const boxes = () => document.querySelectorAll("div.highlight > pre, .table-wrapper");
  const mark = (box) => {
    const wide = box.scrollWidth > box.clientWidth;
    box.classList.toggle("wide", wide);
    if (wide) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  };
  const watch = () => {
    const observer = new ResizeObserver((entries) => entries.forEach(({ target }) => mark(target)));
    boxes().forEach((box) => observer.observe(box));
  };
  // The drawers of narrow screens hang on checkboxes that the theme hides: their labels become buttons, for the keyboard.
  const drawers = () => {
    for (const label of document.querySelectorAll(".nav-overlay-icon, .toc-overlay-icon")) {
      const box = document.getElementById(label.htmlFor);
      const button = document.createElement("button");
      const tell = () => button.setAttribute("aria-expanded", box.checked);
      button.className = label.className;
      button.setAttribute("aria-label", box.getAttribute("aria-label"));
      button.append(...label.childNodes);
      button.addEventListener("click", () => box.click());
      box.addEventListener("change", tell);
      tell();
      label.replaceWith(button);
    }
  };
  document.addEventListener("keydown", ({ key }) => {
    if (key === "Escape") document.querySelectorAll(".sidebar-toggle:checked").forEach((box) => box.click());
  });
  document.addEventListener("DOMContentLoaded", () => (watch(), drawers()));
})();
