// What has `data-seconds` moves the player there; the timeline shows where the player is.
(() => {
  const player = () => document.querySelector("#player video");

  const seek = (seconds) => {
    const video = player();
    if (!video) return;
    const go = () => { video.currentTime = seconds; };
    if (video.readyState > 0) go();
    else video.addEventListener("loadedmetadata", go, { once: true });
    for (const mark of document.querySelectorAll("[data-seconds]"))
      mark.classList.toggle("chosen", mark.dataset.seconds === String(seconds));
    const { top, bottom } = video.getBoundingClientRect();
    if (bottom < 120 || top > innerHeight - 120) video.scrollIntoView({ block: "center", behavior: "smooth" });
  };

  const follow = (event) => {
    const mark = event.target.closest?.("[data-seconds]");
    if (!mark || (event.type === "keydown" && event.key !== "Enter" && event.key !== " ")) return;
    event.preventDefault();
    seek(mark.dataset.seconds);
  };
  document.addEventListener("click", follow);
  document.addEventListener("keydown", follow);

  const playhead = () => {
    const drawing = document.querySelector("#timeline svg[data-axis]");
    const video = player();
    if (!drawing || !video) return;
    const [start, end, left, right, bottom] = drawing.dataset.axis.split(" ").map(Number);
    let line = drawing.querySelector(".playhead");
    if (!line) {
      line = document.createElementNS("http://www.w3.org/2000/svg", "path");
      line.setAttribute("class", "playhead");
      drawing.append(line);
    }
    const share = Math.min(Math.max((video.currentTime - start) / (end - start), 0), 1);
    line.setAttribute("d", `M${left + (right - left) * share} 4V${bottom}`);
  };
  // Media events do not bubble, but they can be captured.
  for (const name of ["timeupdate", "seeking", "seeked"]) document.addEventListener(name, playhead, true);
})();
