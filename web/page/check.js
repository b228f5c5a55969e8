// A classic script in old syntax. It runs where modules do not: in old browsers, and in a page opened as a file.
(function () {
  // The smallest module with an instruction of SIMD, i8x16.splat.
  var simd = [
    0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11
  ];

  function problem() {
    if (location.protocol === "file:") {
      return (
        "Opened as a file, this page cannot load its network. Serve the folder: run " +
        "python -m http.server --bind 127.0.0.1 in it, and open http://127.0.0.1:8000."
      );
    }
    // No browser tells whether its workers take modules. Those that know :has() do.
    var modern =
      "noModule" in document.createElement("script") &&
      typeof WebAssembly === "object" &&
      WebAssembly.validate(new Uint8Array(simd)) &&
      typeof OffscreenCanvas === "function" &&
      CSS.supports("selector(:has(a))");
    return modern
      ? ""
      : "This browser is too old for this page: it lacks modules or WebAssembly with SIMD. " +
          "Use Chrome 105, Firefox 121 or Safari 16.4, or a newer version.";
  }

  function show(text) {
    var paragraph = document.getElementById("problem");
    paragraph.textContent = text;
    paragraph.hidden = false;
  }

  var text = problem();
  if (text) {
    show(text);
    document.documentElement.setAttribute("data-problem", "");
  } else {
    // The event comes for the modules that main.js imports, too.
    document.querySelector("script[type=module]").addEventListener("error", function () {
      show(
        "A file of this page is missing, or its server sends .js files as another type than text/javascript. " +
          "Copy the whole folder, runtime/ included, and load the page again."
      );
    });
  }
})();
