// Runs before anything is drawn: the system's theme, unless the other one was chosen.
"use strict";
(() => {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;
  const stored = () => {
    try { return localStorage.getItem("theme"); } catch { return null; }
  };
  const dark = () => (root.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
  const apply = theme => {
    if (theme === "dark" || theme === "light") root.dataset.theme = theme;
    else delete root.dataset.theme;
    document.getElementById("theme")?.setAttribute("aria-pressed", dark());
    dispatchEvent(new Event("themechange"));
  };
  apply(stored());
  addEventListener("DOMContentLoaded", () => {
    apply(stored());
    document.getElementById("theme").addEventListener("click", () => {
      const want = dark() ? "light" : "dark";
      // What the system says needs no memory, and follows it again.
      const other = want !== (system.matches ? "dark" : "light");
      try {
        if (other) localStorage.setItem("theme", want);
        else localStorage.removeItem("theme");
      } catch { /* then for this visit alone */ }
      apply(other ? want : null);
    });
  });
  system.addEventListener("change", () => apply(stored()));
})();
