"use strict";
// The daemon renders each part; this only puts it where it belongs, and says when the daemon is gone.
const events = new EventSource("events?lang=" + document.documentElement.lang);
const gone = document.getElementById("gone");
events.addEventListener("part", (event) => {
  gone.hidden = true;
  const cut = event.data.indexOf(" ");
  const part = document.getElementById(event.data.slice(0, cut));
  // A selection is somebody copying a key.
  if (part && !(getSelection().toString() && part.contains(getSelection().anchorNode))) {
    part.innerHTML = event.data.slice(cut + 1);
  }
});
events.onerror = () => { gone.hidden = false; };
