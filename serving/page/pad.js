// Drawing with the mouse, a pen or a finger, as with a pen on paper: stroke by stroke, so that the last can be undone.
const WIDTH = 20;  // of the pen, in pixels of the canvas

// `begun` is called when a stroke begins, `ended` when one has ended. Returns {wipe, undo}; `undo` says whether any is left.
export function drawOn(canvas, begun, ended) {
  const pen = canvas.getContext("2d");
  let strokes = [], active = null;  // the pointer that draws: a second finger or a palm draws nothing
  const at = ({clientX, clientY}) => {
    const box = canvas.getBoundingClientRect();
    return [(clientX - box.left) * canvas.width / box.width, (clientY - box.top) * canvas.height / box.height];
  };
  const line = (from, to) => {
    Object.assign(pen, {lineWidth: WIDTH, lineCap: "round", strokeStyle: "#111"});
    pen.beginPath();
    pen.moveTo(...from);
    pen.lineTo(...to);
    pen.stroke();
  };
  const blank = () => {
    pen.fillStyle = "#fff";
    pen.fillRect(0, 0, canvas.width, canvas.height);
  };
  canvas.onpointerdown = event => {
    if (event.button || active !== null) return;
    active = event.pointerId;
    canvas.setPointerCapture(active);
    const point = at(event);
    strokes.push([point]);
    line(point, point);
    begun();
  };
  canvas.onpointermove = event => {
    if (event.pointerId !== active) return;
    const points = event.getCoalescedEvents?.() ?? [];  // all since the last frame
    for (const one of points.length ? points : [event]) {
      const point = at(one), stroke = strokes.at(-1);
      line(stroke.at(-1), point);
      stroke.push(point);
    }
  };
  canvas.onpointerup = canvas.onpointercancel = event => {
    if (event.pointerId !== active) return;
    active = null;
    ended();
  };
  return {
    wipe() {
      strokes = [];
      blank();
    },
    undo() {
      strokes.pop();
      blank();
      for (const stroke of strokes) stroke.forEach((point, i) => line(stroke[Math.max(0, i - 1)], point));
      return strokes.length > 0;
    },
  };
}
